from __future__ import annotations

import numpy as np
import pytest

from loadtests.steady.load import LoadRecord
from loadtests.steady.recovery import in_time_s, measure_recovery, median_interval

RATE_PER_S = 100


def answers(*spans: tuple[float, float, float]) -> np.ndarray:
    """Return answers at equal gaps, for spans of (from, to, answers per second)."""
    return np.concatenate(
        [np.arange(start, end, 1 / rate) + 0.5 / rate for start, end, rate in spans]
    )


def test_an_undisturbed_service_recovers_at_once() -> None:
    recovery = measure_recovery(answers((0, 10, RATE_PER_S)), 0.0, 3.0, 3.3, 8.0)
    assert recovery.before_per_s == pytest.approx(100)
    assert recovery.lost == pytest.approx(0, abs=1)
    assert recovery.after_s == 0


def test_the_time_counts_from_the_end_of_the_disturbance() -> None:
    # nothing from 3.0 to 4.0, less than half of the goodput to 4.5, then as before
    times_s = answers((0, 3, RATE_PER_S), (4, 4.5, 40), (4.5, 10, RATE_PER_S))
    recovery = measure_recovery(times_s, 0.0, 3.0, 3.5, 8.0)
    # the second from 4.3 has 8 + 80 answers, that from 4.5 has 100
    assert recovery.after_s == pytest.approx(1.0)
    assert recovery.lost == pytest.approx(130, abs=1)


def test_a_short_return_is_not_a_recovery() -> None:
    times_s = answers((0, 3, RATE_PER_S), (3.5, 4.3, RATE_PER_S), (4.5, 10, RATE_PER_S))
    recovery = measure_recovery(times_s, 0.0, 3.0, 3.5, 8.0)
    assert recovery.after_s == pytest.approx(1.0), "no second before has more than 80 answers"


def test_a_single_low_bin_is_no_disturbance() -> None:
    times_s = answers((0, 3, RATE_PER_S), (3, 3.2, 60), (3.2, 10, RATE_PER_S))
    assert measure_recovery(times_s, 0.0, 3.0, 3.0, 8.0).after_s == 0


def test_ninety_percent_is_enough() -> None:
    times_s = answers((0, 3, RATE_PER_S), (3, 10, 91))
    assert measure_recovery(times_s, 0.0, 3.0, 3.0, 8.0).after_s == 0
    times_s = answers((0, 3, RATE_PER_S), (3, 10, 80))
    assert measure_recovery(times_s, 0.0, 3.0, 3.0, 8.0).after_s is None


def test_additional_answers_are_a_negative_loss() -> None:
    times_s = answers((0, 3, RATE_PER_S), (3, 4, 150), (4, 10, RATE_PER_S))
    assert measure_recovery(times_s, 0.0, 3.0, 4.0, 8.0).lost == pytest.approx(-50, abs=1)


def test_a_recovery_needs_time_to_be_observed() -> None:
    with pytest.raises(ValueError, match="with 1 s after the end of the disturbance"):
        measure_recovery(answers((0, 5, 100)), 0.0, 3.0, 3.3, 4.0)


def test_only_answers_within_the_deadline_count() -> None:
    record = LoadRecord(
        started_s=0.0,
        due_s=np.array([1.0, 1.0, 1.0, 1.0]),
        ended_s=np.array([1.06, 1.04, 1.01, np.nan]),
        http_status=np.array([200, 200, 429, 0], np.int16),
        delays_s=np.zeros(1),
        cpu_share=0.0,
    )
    assert in_time_s(record, 50.0).tolist() == [1.04]


def test_the_interval_of_a_median() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert median_interval([float(n) for n in range(6)])[1:] == (0.0, 5.0)
    # 20 values: the 6th and the 15th (Conover, table A3: 95.9 %)
    assert median_interval([float(n) for n in range(1, 21)]) == (10.5, 6.0, 15.0)
    with pytest.raises(ValueError, match="no values"):
        median_interval([])
