"""Counts of one load, as clients see them.

A response counts in the interval in which its last byte arrives; a response of status 200 is in
time if it arrives within the deadline of its request, which starts when the request was to be sent.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from loadtests.replay.request_log import DISCONNECTED
from loadtests.steady.load import UNSENT, LoadRecord
from variants.catalog.record import Record

OK: Final = 200

MAX_CPU_SHARE: Final = 0.85
"""Share of a core above which the client is regarded as the bottleneck."""

MAX_DELAY: Final = 0.2
"""99th percentile of the client's delay above which the client is regarded as the bottleneck, as a
share of the deadline: it is part of the latency that the client measures."""


class Measurement(Record):
    """What clients saw during an interval of one load."""

    seconds: float
    """Length of the interval."""
    deadline_ms: float
    offered: int
    """Requests that were due in the interval."""
    in_time: int
    """Responses of status 200 within the deadline."""
    late: int
    """Responses of status 200 after the deadline."""
    refused: dict[int, int]
    """Responses by status, without 200."""
    lost: int
    """Requests whose connection was lost or could not be opened."""
    unsent: int
    """Requests for which no connection, or no time of the client, was free."""
    p50_ms: float | None
    """Median latency of the responses of status 200; None if there were none."""
    p99_ms: float | None
    client_delay_p99_ms: float
    """99th percentile of the delay with which the client processed arrivals and timers."""
    client_cpu_share: float
    """CPU time of the client as a share of one core."""

    @property
    def goodput_per_s(self) -> float:
        """Responses in time per second."""
        return self.in_time / self.seconds

    @property
    def offered_per_s(self) -> float:
        """Requests that were due, per second."""
        return self.offered / self.seconds

    @property
    def ended(self) -> int:
        """Requests that ended in the interval, in whatever way."""
        return self.in_time + self.late + sum(self.refused.values()) + self.lost + self.unsent

    @property
    def is_client_bound(self) -> bool:
        """Whether the client may have been the bottleneck, so that the service could do better."""
        max_delay_ms = MAX_DELAY * self.deadline_ms
        return self.client_cpu_share > MAX_CPU_SHARE or self.client_delay_p99_ms > max_delay_ms


def summarize_load(
    record: LoadRecord, deadline_ms: float, from_s: float, to_s: float
) -> Measurement:
    """Count the requests of a load in an interval, given in seconds from its start.

    Raises ValueError if the interval is empty.
    """
    if not to_s > from_s:
        raise ValueError(f"the interval must have a positive length, got {from_s:g} to {to_s:g}")
    due_s, ended_s = record.due_s - record.started_s, record.ended_s - record.started_s
    has_ended = (ended_s >= from_s) & (ended_s < to_s)  # false for NaN
    status = record.http_status[has_ended]
    latency_s = record.latency_s[has_ended][status == OK]
    in_time = int((latency_s <= deadline_ms / 1e3).sum())
    codes, counts = np.unique(status, return_counts=True)
    by_code = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    quantiles = np.quantile(latency_s, [0.5, 0.99]) * 1e3 if len(latency_s) else (None, None)
    return Measurement(
        seconds=to_s - from_s,
        deadline_ms=deadline_ms,
        offered=int(((due_s >= from_s) & (due_s < to_s)).sum()),
        in_time=in_time,
        late=len(latency_s) - in_time,
        refused={code: count for code, count in by_code.items() if code > 0 and code != OK},
        lost=by_code.get(DISCONNECTED, 0),
        unsent=by_code.get(UNSENT, 0),
        p50_ms=quantiles[0],
        p99_ms=quantiles[1],
        client_delay_p99_ms=float(np.quantile(record.delays_s, 0.99)) * 1e3,
        client_cpu_share=record.cpu_share,
    )
