"""What the service said of its own answers, to hold against what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtests.client import binary
from loadtests.replay.request_log import DISCONNECTED, NO_ANSWER, RequestLog
from loadtests.trials.outcomes import RequestStatus

_STATUS: Final[Mapping[int, RequestStatus]] = {
    NO_ANSWER: RequestStatus.LOST,
    HTTPStatus.OK: RequestStatus.ANSWERED,
    HTTPStatus.TOO_MANY_REQUESTS: RequestStatus.SHED,
    HTTPStatus.GATEWAY_TIMEOUT: RequestStatus.EXPIRED,
    HTTPStatus.UNPROCESSABLE_ENTITY: RequestStatus.UNATTAINABLE,
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReportedTimes:
    """By request, from the `parameters` of its answer; NaN where it said nothing, or got none."""

    predicted_s: Floats
    """From dispatch to answer: what the service expected to stay within."""
    latency_s: Floats
    """From the receipt of the request to its answer, by the gateway's clock."""
    queue_s: Floats
    compute_s: Floats

    @classmethod
    def nothing(cls, count: int) -> ReportedTimes:
        """Return what was said of so many requests before any answer is read."""
        return cls(*(np.full(count, np.nan) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class ParsedAnswers:
    """The answers of a run, parsed; rows are requests, `variant` is a place in `variants`."""

    reported: ReportedTimes
    status: npt.NDArray[np.int8]
    variants: tuple[str, ...]
    variant: npt.NDArray[np.int16]
    batch_size: npt.NDArray[np.int32]
    first_failure: str
    """What the service said, or what happened, to the first that failed; empty where none did."""


def parse(ledger: RequestLog, variants: Sequence[str]) -> ParsedAnswers:
    """Parse what was kept; `variants` are those that are known, others are added as they answer.

    An answer of status 200 that is none of the protocol has failed.
    """
    count = len(ledger.kept)
    status = np.array(
        [_STATUS.get(code, RequestStatus.FAILED) for code in ledger.http_status], dtype=np.int8
    )
    reported = ReportedTimes.nothing(count)
    known = {name: place for place, name in enumerate(variants)}
    variant = np.full(count, -1, dtype=np.int16)
    batch_size = np.zeros(count, dtype=np.int32)
    for number in np.flatnonzero(status == RequestStatus.ANSWERED).tolist():
        try:
            explained = binary.parse_explanation(ledger.kept[number], None)
        except ValueError:
            status[number] = RequestStatus.FAILED
            continue
        variant[number] = known.setdefault(explained["variant"], len(known))
        batch_size[number] = explained.get("batch_size", 0)
        _note(reported, number, explained)
    failed = np.flatnonzero(status == RequestStatus.FAILED)
    first_failure = _tell(ledger, int(failed[0])) if len(failed) else ""
    return ParsedAnswers(reported, status, tuple(known), variant, batch_size, first_failure)


def _note(reported: ReportedTimes, number: int, explained: Mapping[str, Any]) -> None:
    reported.predicted_s[number] = explained.get("predicted_latency_ms", np.nan) / 1e3
    reported.latency_s[number] = explained.get("latency_ms", np.nan) / 1e3
    reported.queue_s[number] = explained.get("queue_ms", np.nan) / 1e3
    reported.compute_s[number] = explained.get("compute_ms", np.nan) / 1e3


def _tell(ledger: RequestLog, number: int) -> str:
    if ledger.http_status[number] == DISCONNECTED:
        return "the connection was lost, or did not open"
    return ledger.kept[number].decode("utf-8", "replace")
