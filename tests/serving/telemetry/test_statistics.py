from __future__ import annotations

import pytest

from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.statistics import Statistics, VariantStatistics


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


def test_a_request_counts_for_the_variant_that_answered_it(statistics: Statistics) -> None:
    statistics.answered(answered("dense", 2.0))
    statistics.answered(answered("dense", 3.0))
    counts, other = statistics.by_variant["dense"], statistics.by_variant["int8"]
    assert (counts.success.count, counts.success.total_s) == (2, 5.0)
    assert (counts.queue.count, counts.queue.total_s) == (2, 0.5)
    assert counts.stages.compute_input.total_s == 1.0
    assert counts.stages.compute_infer.total_s == 2.0
    assert counts.stages.compute_output.total_s == 0.25
    assert other.success.count == 0


def test_a_failure_counts_with_its_duration(statistics: Statistics) -> None:
    statistics.failed("int8", 0.5)
    counts = statistics.by_variant["int8"]
    assert (counts.fail.count, counts.fail.total_s, counts.success.count) == (1, 0.5, 0)


def test_batches_count_by_size(statistics: Statistics) -> None:
    for samples in (1, 8, 8):
        statistics.executed(Executed("dense", samples, input_s=0.5, compute_s=1.0, output_s=0.25))
    counts = statistics.by_variant["dense"]
    assert (counts.samples, counts.executions, counts.last_at_s) == (17, 3, 1234.5)
    executions = {size: stages.compute_infer.count for size, stages in counts.by_size.items()}
    assert executions == {1: 1, 8: 2}
    assert counts.by_size[8].compute_infer.total_s == 2.0


def test_memory_is_that_of_the_last_report(statistics: Statistics) -> None:
    statistics.host_usage(HostUsage("dense", 2, 2_000, None))
    statistics.host_usage(HostUsage("dense", 1, 1_000, 300, "torch CUDA"))
    counts = statistics.by_variant["dense"]
    assert (counts.resident_bytes, counts.gpu_memory_bytes) == (1_000, 300)
    assert counts.provider == "torch CUDA"


def test_the_counts_of_a_replaced_generation_end_and_later_events_of_it_are_ignored() -> None:
    statistics = Statistics(["dense@1", "int8@1"])
    batch = Executed("int8@1", 8, input_s=0.5, compute_s=1.0, output_s=0.25)
    for _ in "in flight", "later":
        statistics.answered(answered("int8@1", 2.0))
        statistics.answered(answered("dense@1", 2.0))
        statistics.failed("int8@1", 0.5)
        statistics.executed(batch)
        statistics.host_usage(HostUsage("int8@1", 1, 1_000, None))
        statistics.serve(["dense@1", "int8@2"])
    assert list(statistics.by_variant) == ["dense@1", "int8@2"]
    assert statistics.by_variant["dense@1"].success.count == 2
    assert statistics.by_variant["int8@2"] == VariantStatistics()
