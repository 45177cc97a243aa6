"""The goal of a search: limits to keep, and the quantity to minimize or maximize."""

from __future__ import annotations

import re
from typing import Final, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from variants.catalog.record import Record
from variants.catalog.words import plain

Cost: TypeAlias = Literal["parameters", "bytes", "latency"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


class Goal(Record):
    """The least cost within a largest drop of accuracy, or the best accuracy within a latency.

    With both limits, both are kept. `least` is the cost to minimize; without it the search
    maximizes accuracy.
    """

    max_drop: float | None = Field(default=None, gt=0, le=1)
    """Largest loss of accuracy against dense that the confidence interval may include, as a
    share."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Probability that all claims of the search hold together."""
    least: Cost | None = None
    latency_s: float | None = Field(default=None, gt=0)
    """Largest median latency of a batch."""
    batch_size: int = Field(default=1, ge=1)
    """Samples per batch when latency is measured."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.max_drop is None and self.latency_s is None:
            raise ValueError("set a largest drop of accuracy, a largest latency, or both")
        if self.max_drop is None and self.least is not None:
            raise ValueError(
                f"the least {self.least} needs a largest drop of accuracy, or it would be 0"
            )
        if self.latency_s is None and self.least is None:
            raise ValueError("set the cost to minimize: parameters, bytes or latency")
        return self

    @classmethod
    def from_options(
        cls,
        *,
        max_drop_points: float | None,
        confidence_percent: float,
        least: Cost | None,
        latency_ms: float | None,
        batch_size: int,
    ) -> Goal:
        """Return the goal of the command's options; raises `ValueError` of one line if invalid."""
        try:
            return cls(
                max_drop=None if max_drop_points is None else max_drop_points / 100,
                confidence=confidence_percent / 100,
                least=least,
                latency_s=None if latency_ms is None else latency_ms / 1000,
                batch_size=batch_size,
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise ValueError(f"{where}{plain(first)}") from None

    @property
    def cost(self) -> Cost:
        """The cost that candidates are compared by, beside accuracy."""
        return self.least or "latency"


def duration_s(text: str) -> float:
    """Parse `90s`, `10m`, `1.5h` or a number of seconds; raises `ValueError` for other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"a duration must be above 0 and look like 90s, 10m or 1.5h, got {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]
