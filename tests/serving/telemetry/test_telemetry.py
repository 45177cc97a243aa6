from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from serving.errors import Overloaded
from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics, VariantStatistics
from serving.telemetry.telemetry import Telemetry
from tests.serving.builders import profile

ANSWERED = Answered(
    variant="int8@1",
    arm="",
    took_s=0.004,
    queue_s=0.001,
    input_s=0.0001,
    compute_s=0.002,
    output_s=0.0009,
    predicted_s=0.005,
    accuracy=0.88,
    agreement=0.97,
    has_deadline=True,
    is_on_time=True,
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def telemetry(registry: CollectorRegistry) -> Telemetry:
    telemetry = Telemetry(Metrics(registry, "shirts"), Statistics())
    telemetry.serve({"int8@1": profile("int8")})
    return telemetry


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float:
    value = registry.get_sample_value(f"paretoserve_{name}", {"model": "shirts", **labels})
    return value or 0.0


def counts(telemetry: Telemetry) -> VariantStatistics:
    return telemetry.statistics.by_variant["int8@1"]


def test_an_answer_counts_in_metrics_and_statistics(
    registry: CollectorRegistry, telemetry: Telemetry
) -> None:
    telemetry.answered(ANSWERED)
    assert metric(registry, "requests_total", variant="int8", arm="", outcome="answered") == 1
    assert counts(telemetry).success.count == 1


def test_a_batch_counts_in_metrics_and_statistics(
    registry: CollectorRegistry, telemetry: Telemetry
) -> None:
    telemetry.executed(Executed("int8@1", samples=8, input_s=0.1, compute_s=0.2, output_s=0.3))
    assert metric(registry, "samples_total", variant="int8") == 8
    assert counts(telemetry).samples == 8


def test_the_memory_of_hosts_shows_in_metrics_and_statistics(
    registry: CollectorRegistry, telemetry: Telemetry
) -> None:
    telemetry.host_usage(HostUsage("int8@1", 2, 2_000, None))
    assert metric(registry, "resident_bytes", variant="int8") == 2_000
    assert counts(telemetry).resident_bytes == 2_000


@pytest.mark.parametrize(("variant", "fails"), [("int8@1", 1), (None, 0)])
def test_a_failure_counts_in_the_statistics_if_a_variant_was_preferred(
    registry: CollectorRegistry, telemetry: Telemetry, variant: str | None, fails: int
) -> None:
    telemetry.failed(Overloaded("busy"), "", variant, took_s=0.5)
    assert metric(registry, "errors_total", error="Overloaded") == 1
    assert counts(telemetry).fail.count == fails


def test_events_without_statistics_count_in_the_metrics(
    registry: CollectorRegistry, telemetry: Telemetry
) -> None:
    telemetry.disconnected("")
    telemetry.host_lost("int8@1")
    assert metric(registry, "requests_total", variant="", arm="", outcome="cancelled") == 1
    assert metric(registry, "hosts_lost_total", variant="int8") == 1
