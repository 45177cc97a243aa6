from __future__ import annotations

import pytest

from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.statistics import Statistics


@pytest.fixture
def statistics() -> Statistics:
    return Statistics(["dense", "int8"], wall_clock=lambda: 1234.5)


def answered(variant: str, took_s: float) -> Answered:
    return Answered(
        variant=variant,
        arm="",
        took_s=took_s,
        queue_s=0.25,
        input_s=0.5,
        compute_s=1.0,
        output_s=0.125,
        predicted_s=1.0,
        accuracy=0.9,
        agreement=1.0,
        has_deadline=False,
        is_on_time=True,
    )


def test_requests_count_under_the_variant_that_answered(statistics: Statistics) -> None:
    statistics.answered(answered("dense", 2.0))
    statistics.answered(answered("dense", 3.0))
    own, other = statistics.by_variant["dense"], statistics.by_variant["int8"]
    assert (own.success.count, own.success.total_s) == (2, 5.0)
    assert (own.queue.count, own.queue.total_s) == (2, 0.5)
    assert own.stages.compute_input.total_s == 1.0
    assert own.stages.compute_infer.total_s == 2.0
    assert own.stages.compute_output.total_s == 0.25
    assert other.success.count == 0


def test_a_failure_counts_with_the_time_it_took(statistics: Statistics) -> None:
    statistics.failed("int8", 0.5)
    own = statistics.by_variant["int8"]
    assert (own.fail.count, own.fail.total_s, own.success.count) == (1, 0.5, 0)


def test_batches_count_by_their_size(statistics: Statistics) -> None:
    for samples in (1, 8, 8):
        statistics.executed(Executed("dense", samples, input_s=0.5, compute_s=1.0, output_s=0.25))
    own = statistics.by_variant["dense"]
    assert (own.samples, own.executions, own.last_at_s) == (17, 3, 1234.5)
    counts = {size: stages.compute_infer.count for size, stages in own.by_size.items()}
    assert counts == {1: 1, 8: 2}
    assert own.by_size[8].compute_infer.total_s == 2.0


def test_memory_is_that_of_the_last_count(statistics: Statistics) -> None:
    statistics.host_usage(HostUsage("dense", 2, 2_000, None))
    statistics.host_usage(HostUsage("dense", 1, 1_000, 300))
    own = statistics.by_variant["dense"]
    assert (own.resident_bytes, own.gpu_memory_bytes) == (1_000, 300)
