"""What the service said of its own answers, to hold against what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtests import binary
from loadtests.replay.ledger import DISCONNECTED, NO_ANSWER, Ledger
from loadtests.trial.outcomes import Status

_STATUS: Final[Mapping[int, Status]] = {
    NO_ANSWER: Status.LOST,
    HTTPStatus.OK: Status.ANSWERED,
    HTTPStatus.TOO_MANY_REQUESTS: Status.SHED,
    HTTPStatus.GATEWAY_TIMEOUT: Status.EXPIRED,
    HTTPStatus.UNPROCESSABLE_ENTITY: Status.UNATTAINABLE,
}
_RETRY_AFTER: Final = b"\r\nretry-after: "

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
    accuracy: Floats
    """Of the variant that answered, by its report card."""
    retry_after_s: Floats
    """Of a request that was shed: when to try again."""
    deadline_met: npt.NDArray[np.bool_]
    """By the gateway's clock; False where there is no answer."""

    @classmethod
    def nothing(cls, count: int) -> Said:
        """Return what was said of so many requests before any answer is read."""
        names = ("predicted_s", "latency_s", "queue_s", "compute_s", "accuracy", "retry_after_s")
        unsaid = {name: np.full(count, np.nan) for name in names}
        return cls(**unsaid, deadline_met=np.zeros(count, dtype=np.bool_))


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
    for number in np.flatnonzero(status == Status.SHED).tolist():
        said.retry_after_s[number] = _retry_after_s(ledger.kept[number])
    failed = np.flatnonzero(status == Status.FAILED)
    first_failure = _tell(ledger, int(failed[0])) if len(failed) else ""
    return Answers(said, status, tuple(known), variant, batch_size, first_failure)


def _note(said: Said, number: int, explained: Mapping[str, Any]) -> None:
    said.predicted_s[number] = explained.get("predicted_latency_ms", np.nan) / 1e3
    said.latency_s[number] = explained.get("latency_ms", np.nan) / 1e3
    said.queue_s[number] = explained.get("queue_ms", np.nan) / 1e3
    said.compute_s[number] = explained.get("compute_ms", np.nan) / 1e3
    said.accuracy[number] = explained.get("accuracy", np.nan)
    said.deadline_met[number] = explained.get("deadline_met", False)


def _retry_after_s(answer: bytes) -> float:
    _, _, rest = answer.lower().partition(_RETRY_AFTER)
    seconds = rest.partition(b"\r\n")[0]
    return float(seconds) if seconds.isdigit() else np.nan


def _tell(ledger: Ledger, number: int) -> str:
    if ledger.http_status[number] == DISCONNECTED:
        return "the connection was lost, or did not open"
    return ledger.kept[number].decode("utf-8", "replace")
