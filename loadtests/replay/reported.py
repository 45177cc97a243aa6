"""What the service said of its own answers, to hold against what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtests.client import binary
from loadtests.replay.ledger import DISCONNECTED, NO_ANSWER, Ledger
from loadtests.trials.outcomes import Status

_STATUS: Final[Mapping[int, Status]] = {
    NO_ANSWER: Status.LOST,
    HTTPStatus.OK: Status.ANSWERED,
    HTTPStatus.TOO_MANY_REQUESTS: Status.SHED,
    HTTPStatus.GATEWAY_TIMEOUT: Status.EXPIRED,
    HTTPStatus.UNPROCESSABLE_ENTITY: Status.UNATTAINABLE,
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Said:
    """By request, from the `parameters` of its answer; NaN where it said nothing, or got none."""

    predicted_s: Floats
    """From dispatch to answer: what the service expected to stay within."""
    latency_s: Floats
    """From the receipt of the request to its answer, by the gateway's clock."""
    queue_s: Floats
    compute_s: Floats

    @classmethod
    def nothing(cls, count: int) -> Said:
        """Return what was said of so many requests before any answer is read."""
        return cls(*(np.full(count, np.nan) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a run, parsed; rows are requests, `variant` is a place in `variants`."""

    said: Said
    status: npt.NDArray[np.int8]
    variants: tuple[str, ...]
    variant: npt.NDArray[np.int16]
    batch_size: npt.NDArray[np.int32]
    first_failure: str
    """What the service said, or what happened, to the first that failed; empty where none did."""


def parse(ledger: Ledger, variants: Sequence[str]) -> Answers:
    """Parse what was kept; `variants` are those that are known, others are added as they answer.

    An answer of status 200 that is none of the protocol has failed.
    """
    count = len(ledger.kept)
    status = np.array(
        [_STATUS.get(code, Status.FAILED) for code in ledger.http_status], dtype=np.int8
    )
    said = Said.nothing(count)
    known = {name: place for place, name in enumerate(variants)}
    variant = np.full(count, -1, dtype=np.int16)
    batch_size = np.zeros(count, dtype=np.int32)
    for number in np.flatnonzero(status == Status.ANSWERED).tolist():
        try:
            explained = binary.explanation(ledger.kept[number], None)
        except ValueError:
            status[number] = Status.FAILED
            continue
        variant[number] = known.setdefault(explained["variant"], len(known))
        batch_size[number] = explained.get("batch_size", 0)
        _note(said, number, explained)
    failed = np.flatnonzero(status == Status.FAILED)
    first_failure = _tell(ledger, int(failed[0])) if len(failed) else ""
    return Answers(said, status, tuple(known), variant, batch_size, first_failure)


def _note(said: Said, number: int, explained: Mapping[str, Any]) -> None:
    said.predicted_s[number] = explained.get("predicted_latency_ms", np.nan) / 1e3
    said.latency_s[number] = explained.get("latency_ms", np.nan) / 1e3
    said.queue_s[number] = explained.get("queue_ms", np.nan) / 1e3
    said.compute_s[number] = explained.get("compute_ms", np.nan) / 1e3


def _tell(ledger: Ledger, number: int) -> str:
    if ledger.http_status[number] == DISCONNECTED:
        return "the connection was lost, or did not open"
    return ledger.kept[number].decode("utf-8", "replace")
