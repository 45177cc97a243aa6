"""Parses what the service reports in the parameters of its responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtests.client import binary
from loadtests.replay.request_log import DISCONNECTED, NO_RESPONSE, RequestLog
from loadtests.trials.outcomes import RequestStatus

_STATUS: Final[Mapping[int, RequestStatus]] = {
    NO_RESPONSE: RequestStatus.LOST,
    HTTPStatus.OK: RequestStatus.ANSWERED,
    HTTPStatus.TOO_MANY_REQUESTS: RequestStatus.SHED,
    HTTPStatus.GATEWAY_TIMEOUT: RequestStatus.EXPIRED,
    HTTPStatus.UNPROCESSABLE_ENTITY: RequestStatus.UNATTAINABLE,
}
"""Status of a request by HTTP status; all others are `RequestStatus.FAILED`."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReportedTimes:
    """Times by request from the parameters of its response; NaN if they are not reported."""

    predicted_s: Floats
    """Predicted upper limit of the time from dispatch to response."""
    latency_s: Floats
    """Time from the receipt of the request to its response, by the clock of the gateway."""
    queue_s: Floats
    compute_s: Floats

    @classmethod
    def unknown(cls, count: int) -> ReportedTimes:
        """Return NaN times for `count` requests."""
        return cls(*(np.full(count, np.nan) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class ParsedResponses:
    """The parsed responses of a run. Rows are requests; `variant` is an index into `variants`."""

    reported: ReportedTimes
    status: npt.NDArray[np.int8]
    variants: tuple[str, ...]
    variant: npt.NDArray[np.int16]
    batch_size: npt.NDArray[np.int32]
    first_failure: str
    """Response to, or reason of, the first failed request; empty if there is none."""


def parse_responses(log: RequestLog, variants: Sequence[str]) -> ParsedResponses:
    """Parse the responses in a request log; unknown variants are appended to `variants`.

    A response of status 200 that is not a V2 inference response counts as failed.
    """
    count = len(log.contents)
    status = np.array(
        [_STATUS.get(code, RequestStatus.FAILED) for code in log.http_status], dtype=np.int8
    )
    reported = ReportedTimes.unknown(count)
    index_of = {name: index for index, name in enumerate(variants)}
    variant = np.full(count, -1, dtype=np.int16)
    batch_size = np.zeros(count, dtype=np.int32)
    for number in np.flatnonzero(status == RequestStatus.ANSWERED).tolist():
        try:
            explanation = binary.parse_explanation(log.contents[number], None)
        except ValueError:
            status[number] = RequestStatus.FAILED
            continue
        variant[number] = index_of.setdefault(explanation["variant"], len(index_of))
        batch_size[number] = explanation.get("batch_size", 0)
        _store_times(reported, number, explanation)
    failed = np.flatnonzero(status == RequestStatus.FAILED)
    first_failure = _describe_failure(log, int(failed[0])) if len(failed) else ""
    return ParsedResponses(reported, status, tuple(index_of), variant, batch_size, first_failure)


def _store_times(reported: ReportedTimes, number: int, explanation: Mapping[str, Any]) -> None:
    reported.predicted_s[number] = explanation.get("predicted_latency_ms", np.nan) / 1e3
    reported.latency_s[number] = explanation.get("latency_ms", np.nan) / 1e3
    reported.queue_s[number] = explanation.get("queue_ms", np.nan) / 1e3
    reported.compute_s[number] = explanation.get("compute_ms", np.nan) / 1e3


def _describe_failure(log: RequestLog, number: int) -> str:
    if log.http_status[number] == DISCONNECTED:
        return "the connection was lost or could not be opened"
    return log.contents[number].decode("utf-8", "replace")
