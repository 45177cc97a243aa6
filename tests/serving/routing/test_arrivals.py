from __future__ import annotations

from collections.abc import Iterable

import pytest

from serving.routing.arrivals import (
    KEPT_ARRIVALS,
    MAX_ARRIVAL_AGE_S,
    MAX_ARRIVALS,
    MIN_ARRIVALS,
    MIN_PAUSE_S,
    PAUSE_RATIO,
    RECENT_S,
    Arrival,
    ArrivalRecord,
)


def record_of(arrivals: Iterable[float], size: int = 1) -> ArrivalRecord:
    """Return a record of requests of `size` samples that arrive at these times."""
    record = ArrivalRecord()
    for at in arrivals:
        record.add(Arrival(at, size, 0.020, ("dense",)))
    record.update_longest_gap()
    return record


def test_an_empty_record_has_no_rate_and_endless_silence() -> None:
    record = ArrivalRecord()
    assert (len(record), record.samples_per_s(1.0), record.silence_s(1.0)) == (0, 0.0, float("inf"))
    assert record.continuity(1.0) == 0.0


def test_the_rate_is_that_of_the_recent_arrivals() -> None:
    slow = [number * 0.1 for number in range(100)]
    fast = [10 + number * 0.01 for number in range(int(RECENT_S / 0.01) + 1)]
    record = record_of([*slow, *fast], size=3)
    assert record.samples_per_s(fast[-1]) == pytest.approx(300, rel=0.02)
    assert record_of(slow[: MIN_ARRIVALS - 1]).samples_per_s(slow[MIN_ARRIVALS - 1]) == 0, "few"


@pytest.mark.parametrize(
    ("gap_s", "kept"),
    [
        (0.001, MAX_ARRIVALS),
        (0.010, int(RECENT_S / 0.010) + 1),
        (0.500, KEPT_ARRIVALS),
        (3.0, int(MAX_ARRIVAL_AGE_S / 3.0) + 1),
    ],
)
def test_the_record_is_bounded_in_time_and_in_number(gap_s: float, kept: int) -> None:
    record = record_of(1000 + number * gap_s for number in range(1000))
    assert len(record) == pytest.approx(kept, abs=1)
    assert record.recent()[-1].at == 1000 + 999 * gap_s


def test_old_arrivals_are_discarded_in_silence() -> None:
    record = record_of([0.0, 1.0, 2.0])
    record.discard_old(MAX_ARRIVAL_AGE_S + 1.5)
    assert [each.at for each in record.recent()] == [2.0]


@pytest.mark.parametrize("gap_s", [0.001, 0.1, 2.0])
def test_the_arrivals_have_ended_after_twice_the_longest_gap(gap_s: float) -> None:
    record = record_of(number * gap_s for number in range(20))
    last = 19 * gap_s
    assert record.continuity(last + 0.99 * gap_s) == 1.0
    assert record.continuity(last + 1.5 * gap_s) == pytest.approx(0.5)
    assert record.continuity(last + 1.01 * PAUSE_RATIO * gap_s) == 0.0


def test_an_arrival_after_a_long_pause_starts_a_new_record() -> None:
    fast = [number * 0.01 for number in range(50)]
    assert len(record_of([*fast, fast[-1] + 0.9 * MIN_PAUSE_S])) == 51, "a pause between bursts"
    assert len(record_of([*fast, fast[-1] + 1.1 * MIN_PAUSE_S])) == 1


def test_pauses_as_long_as_those_before_do_not_start_a_new_record() -> None:
    assert len(record_of([0.0, 2.0, 4.0, 7.0, 8.0])) == 5
    assert len(record_of([0.0, 2.0, 4.0, 9.0])) == 1
