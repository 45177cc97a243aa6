from __future__ import annotations

import math

import pytest

from serving.dataplane.step_delay import MAX_DELAY_S, MAX_DELAY_SHARE, StepDelay

ITERATION_S = 0.0011


def iterations_until_due(
    left_s: float, *, requests: list[int], full_after: int = 1000
) -> tuple[int, bool]:
    """Return after how many iterations the step is due, and whether the loop counts as busy.

    `requests` has the number of requests that each iteration brings; the first one schedules the
    step.
    """
    delay, now, queued = StepDelay(full=1000), 50.0, 0
    for number, count in enumerate(requests):
        due = [delay.record_request(now, left_s) for _ in range(count)]
        if True in due:
            return number, delay.is_busy
        queued += count
        if number == 0:
            delay.starts()
            continue
        now += ITERATION_S
        if delay.is_over(now, is_full=queued >= full_after):
            return number, delay.is_busy
    raise AssertionError("the step was never due")


@pytest.mark.parametrize(
    ("requests", "iterations"),
    [
        pytest.param([1, 0], 1, id="a request alone does not wait"),
        pytest.param([5, 0], 1, id="nor do several that are read at once"),
        pytest.param([1, 1, 0], 2, id="one more iteration for the second"),
        pytest.param([1, 2, 1, 3, 0], 4, id="as long as each brings some"),
    ],
)
def test_a_step_waits_while_iterations_bring_requests(requests: list[int], iterations: int) -> None:
    assert iterations_until_due(1.0, requests=requests) == (iterations, False)


@pytest.mark.parametrize(
    ("left_s", "delay_s"),
    [
        pytest.param(math.inf, MAX_DELAY_S, id="no deadline"),
        pytest.param(1.0, MAX_DELAY_S, id="much time"),
        pytest.param(0.01, 0.01 * MAX_DELAY_SHARE, id="little time"),
        pytest.param(-1.0, 0.0, id="too late already"),
    ],
)
def test_a_busy_loop_delays_it_only_for_a_part_of_the_time_left(
    left_s: float, delay_s: float
) -> None:
    iterations, is_busy = iterations_until_due(left_s, requests=[1] * 50)
    assert iterations == math.ceil(delay_s / ITERATION_S)
    assert is_busy


def test_the_tightest_request_counts() -> None:
    delay = StepDelay(full=1000)
    delay.record_request(50.0, 1.0)
    delay.starts()
    delay.record_request(50.0, 0.010)
    assert not delay.is_over(50.0 + 0.9 * MAX_DELAY_SHARE * 0.010, is_full=False)
    delay.record_request(50.0 + 0.9 * MAX_DELAY_SHARE * 0.010, 1.0)
    assert delay.is_over(50.0 + 1.1 * MAX_DELAY_SHARE * 0.010, is_full=False)


def test_a_full_batch_does_not_wait() -> None:
    assert iterations_until_due(1.0, requests=[3] * 50, full_after=10) == (3, True)


def test_the_next_step_starts_anew() -> None:
    delay = StepDelay(full=1000)
    for start in (50.0, 60.0):
        delay.record_request(start, math.inf)
        delay.starts()
        delay.record_request(start, math.inf)
        assert not delay.is_over(start + ITERATION_S, is_full=False)
        assert delay.is_over(start + 2 * ITERATION_S, is_full=False)
        assert not delay.is_busy


def test_a_step_does_not_wait_for_the_end_of_a_long_iteration() -> None:
    delay = StepDelay(full=1000)
    assert not delay.record_request(50.0, 1.0)
    assert not delay.record_request(50.0 + 0.9 * MAX_DELAY_S, 1.0)
    assert delay.record_request(50.0 + MAX_DELAY_S, 1.0)
    assert delay.is_busy
    assert not delay.record_request(50.0 + MAX_DELAY_S, 1.0), "the time begins again"


def test_a_step_does_not_wait_when_a_full_batch_was_queued() -> None:
    delay = StepDelay(full=3)
    due = [delay.record_request(50.0, 1.0) for _ in range(7)]
    assert due == [False, False, True, False, False, True, False]
