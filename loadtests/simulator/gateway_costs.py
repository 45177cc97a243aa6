"""The CPU time that a gateway spends on each piece of work, measured or given on a command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from pydantic import Field, NonNegativeFloat

from loadtests.workload.notation import parse_number, parse_pairs
from variants.catalog.record import Record, read_record

TURNS: Final = "turns"
"""Key of `GatewayCosts.turns_per_batch` on a command line."""

_FIELDS: Final = {
    f"{part}_ms": f"per_{part}_s"
    for part in ("request", "answer", "refusal", "shed", "batch", "turn")
}
"""Field of `GatewayCosts` by key on a command line."""


class GatewayCosts(Record):
    """Seconds of one core by piece of work. By default a gateway takes no time."""

    per_request_s: NonNegativeFloat = 0.0
    """Reading, parsing and admitting a request."""
    per_answer_s: NonNegativeFloat = 0.0
    """Rendering and writing the answer to a request."""
    per_refusal_s: NonNegativeFloat = 0.0
    """Rendering and writing an error for a request that was parsed."""
    per_shed_s: NonNegativeFloat = 0.0
    """Turning a request away before it is parsed."""
    per_batch_s: NonNegativeFloat = 0.0
    """Planning, joining, sending, receiving and splitting a batch."""
    per_turn_s: NonNegativeFloat = 0.0
    """One turn of the event loop, without the callbacks in it."""
    turns_per_batch: int = Field(default=0, ge=0)
    """Turns of the event loop that the answer of a host crosses. With 0 it is received between two
    callbacks, however many requests are ready."""

    @property
    def description(self) -> str:
        """The costs above 0 in the form of a command line."""
        values = self.model_dump()
        costs = {key: 1e3 * values[field] for key, field in _FIELDS.items() if values[field]}
        parts = [f"{key}={value:.3g}" for key, value in costs.items()]
        return ",".join([*parts, f"{TURNS}={self.turns_per_batch}"])


def parse_gateway_costs(text: str) -> GatewayCosts:
    """Parse `request_ms=0.2,batch_ms=0.5,turns=3`, or read the file of a calibration.

    Raises ValueError with the keys and their valid values.
    """
    if "=" not in text and text:
        return read_record(GatewayCosts, Path(text))
    values = parse_pairs(text, (*_FIELDS, TURNS)) if text else {}
    fields: dict[str, float | int] = {}
    for key, written in values.items():
        value = parse_number(key, written)
        if not 0 <= value < math.inf:
            raise ValueError(f"{key} must be a number of at least 0, got {written!r}")
        if key == TURNS:
            if value != int(value):
                raise ValueError(f"{key} must be a whole number, got {written!r}")
            fields["turns_per_batch"] = int(value)
        else:
            fields[_FIELDS[key]] = value / 1e3
    return GatewayCosts.model_validate(fields)
