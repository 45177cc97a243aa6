from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loadtests.replay.request_log import DISCONNECTED, NO_RESPONSE
from loadtests.steady.load import UNSENT, LoadRecord
from loadtests.steady.measurement import Measurement, summarize_load

STARTED_S = 1000.0

# due, ended (seconds from the start), status
REQUESTS = (
    (0.90, 0.99, 200),  # ended before the interval
    (0.95, 1.00, 200),  # in time, due before the interval
    (1.10, 1.15, 200),  # in time, at the deadline
    (1.20, 1.26, 200),  # late
    (1.30, 1.31, 429),
    (1.40, 1.41, 429),
    (1.50, 1.51, 504),
    (1.60, 1.70, DISCONNECTED),
    (1.80, 1.80, UNSENT),
    (1.95, 2.00, 200),  # ended after the interval
    (1.99, np.nan, NO_RESPONSE),
)


def record(**fields: Any) -> LoadRecord:
    due_s, ended_s, status = (np.array(column) for column in zip(*REQUESTS, strict=True))
    values = {
        "started_s": STARTED_S,
        "due_s": due_s + STARTED_S,
        "ended_s": ended_s + STARTED_S,
        "http_status": status.astype(np.int16),
        "delays_s": np.full(100, 0.001),
        "cpu_share": 0.25,
    }
    return LoadRecord(**{**values, **fields})


def measure(**fields: Any) -> Measurement:
    return summarize_load(record(**fields), deadline_ms=50.001, from_s=1.0, to_s=2.0)


def test_a_request_counts_in_the_interval_in_which_it_ends() -> None:
    measured = measure()
    assert (measured.in_time, measured.late) == (2, 1)
    assert measured.refused == {429: 2, 504: 1}
    assert (measured.lost, measured.unsent) == (1, 1)
    assert measured.ended == 8
    assert measured.offered == 9, "two were due before the interval"
    assert measured.p50_ms == pytest.approx(50)
    assert measured.client_delay_p99_ms == pytest.approx(1)


def test_goodput_is_per_second() -> None:
    measured = summarize_load(record(), deadline_ms=50.001, from_s=1.0, to_s=1.5)
    assert measured.goodput_per_s == pytest.approx(4)
    assert measured.offered_per_s == pytest.approx(8)


def test_without_responses_there_are_no_quantiles() -> None:
    measured = measure(http_status=np.full(len(REQUESTS), 429, np.int16))
    assert (measured.p50_ms, measured.p99_ms, measured.goodput_per_s) == (None, None, 0)


@pytest.mark.parametrize(
    ("cpu_share", "delay_s", "is_bound"),
    [(0.5, 0.001, False), (0.9, 0.001, True), (0.5, 0.02, True)],
)
def test_a_busy_or_late_client_is_reported(
    cpu_share: float, delay_s: float, is_bound: bool
) -> None:
    measured = measure(cpu_share=cpu_share, delays_s=np.full(10, delay_s))
    assert measured.is_client_bound is is_bound


def test_the_interval_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="got 1 to 1"):
        summarize_load(record(), 50, 1.0, 1.0)
