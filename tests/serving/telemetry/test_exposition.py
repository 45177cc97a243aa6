"""Compares all that a scrape returns, byte by byte, with `exposition.txt` beside this file."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import (
    CollectorRegistry,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)

from serving.errors import DeadlineExceeded, InferenceFailed, Overloaded
from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.metrics import Metrics
from tests.serving.builders import profile

EXPECTED = Path(__file__).with_name("exposition.txt").read_text()

DENSE = profile("dense", 0.90, weight_bytes=4_000, artifact_bytes=4_500)
INT8 = profile("int8", 0.88, weight_bytes=1_000, artifact_bytes=1_500)
LOW_RANK = profile("low-rank", 0.87)

ANSWERED = Answered(
    variant="dense@1",
    arm="",
    took_s=0.75,
    queue_s=0.25,
    input_s=0.125,
    compute_s=0.25,
    output_s=0.125,
    predicted_s=1.0,
    accuracy=0.5,
    agreement=0.875,
    has_deadline=True,
    is_on_time=True,
)
EXECUTED = Executed("dense@1", samples=3, input_s=0.125, compute_s=0.25, output_s=0.125)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scrape(registry: CollectorRegistry) -> str:
    """Return the exposition with `<time>` for the times at which series were created."""
    text = generate_latest(registry).decode()
    return re.sub(r"^(\w+_created(?:{.*})?) .+$", r"\1 <time>", text, flags=re.MULTILINE)


def report_events(metrics: Metrics) -> None:
    """Report each event at least once, for variants that are served, replaced and removed."""
    metrics.queue_length(lambda: 5)
    metrics.serve({"int8@1": INT8, "dense@1": DENSE, "low-rank@1": LOW_RANK})
    for key in ("int8@1", "low-rank@1"):
        metrics.answered(replace(ANSWERED, variant=key, arm="small"))
        metrics.executed(replace(EXECUTED, variant=key))
        metrics.host_lost(key)
        metrics.host_usage(HostUsage(key, 1, 1_000, 10))
    metrics.tick(0.5)
    metrics.serve({"int8@2": replace(INT8, generation=2), "dense@1": DENSE})

    metrics.answered(ANSWERED)
    metrics.answered(replace(ANSWERED, took_s=100.0, predicted_s=10.0, is_on_time=False))
    metrics.answered(replace(ANSWERED, took_s=0.5, queue_s=0.0, has_deadline=False))
    # The upper bound of a bucket belongs to the bucket.
    metrics.answered(replace(ANSWERED, arm="small", took_s=0.25, predicted_s=0.25, accuracy=0.75))
    metrics.answered(replace(ANSWERED, variant="int8@1", arm="small"))
    metrics.executed(EXECUTED)
    metrics.executed(replace(EXECUTED, samples=64, compute_s=2.0))
    metrics.executed(replace(EXECUTED, variant="int8@1", samples=2))
    metrics.executed(replace(EXECUTED, variant="int8@2", samples=1))

    metrics.failed(Overloaded("busy"), "")
    metrics.failed(Overloaded("still busy"), "small")
    metrics.failed(DeadlineExceeded("late"), "")
    metrics.failed(InferenceFailed("failed"), "")
    metrics.failed(KeyError("any other"), "")
    metrics.disconnected("")
    metrics.cancelled("queued", 3)
    metrics.cancelled("running", 5)
    metrics.expired(2)
    metrics.decided(1e-5)
    metrics.decided(0.5)
    metrics.host_lost("dense@1")
    metrics.host_lost("int8@1")
    metrics.host_usage(HostUsage("dense@1", 2, 2_000, 500))
    metrics.host_usage(HostUsage("int8@2", 1, 1_000, None))
    metrics.set_failing({"dense@1"})
    metrics.tick(0.5)


def test_a_scrape_after_these_events(registry: CollectorRegistry) -> None:
    report_events(Metrics(registry, "shirts"))
    assert scrape(registry).splitlines() == EXPECTED.splitlines()


def test_before_the_first_event_only_series_without_labels_exist(
    registry: CollectorRegistry,
) -> None:
    Metrics(registry, "shirts")
    lines = scrape(registry).splitlines()
    comments = [line for line in lines if line.startswith("#")]
    expected = [line for line in EXPECTED.splitlines() if line.startswith("#")]
    assert comments == [
        line
        for line in expected
        if "_queue_length" not in line and ("_created" not in line or "_decision_" in line)
    ]
    name = "paretoserve_router_decision_seconds"
    bounds = ["1e-05", "2e-05", "5e-05", "0.0001", "0.0002", "0.0005", "0.001", "0.01", "+Inf"]
    assert [line for line in lines if not line.startswith("#")] == [
        *(f'{name}_bucket{{le="{bound}"}} 0.0' for bound in bounds),
        f"{name}_count 0.0",
        f"{name}_sum 0.0",
        f"{name}_created <time>",
    ]


def test_a_series_states_when_its_first_event_was(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry, "shirts")
    metrics.serve({"dense@1": DENSE})
    before = time.time()
    metrics.answered(ANSWERED)
    between = time.time()
    metrics.answered(replace(ANSWERED, is_on_time=False))
    after = time.time()

    def created(name: str, **labels: str) -> float:
        labels = {"model": "shirts", "arm": "", **labels}
        value = registry.get_sample_value(f"paretoserve_{name}_created", labels)
        assert value is not None
        return value

    for first in (
        created("requests", variant="dense", outcome="answered"),
        created("slo_attained", variant="dense"),
        created("request_duration_seconds", variant="dense"),
        created("chosen_accuracy"),
    ):
        assert before <= first <= between
    for second in (
        created("requests", variant="dense", outcome="late"),
        created("slo_missed", variant="dense"),
    ):
        assert between <= second <= after


def test_prometheus_clients_switch_omits_the_times(registry: CollectorRegistry) -> None:
    report_events(Metrics(registry, "shirts"))
    disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
    try:
        lines = scrape(registry).splitlines()
    finally:
        enable_created_metrics()  # type: ignore[no-untyped-call]
    assert lines == [line for line in EXPECTED.splitlines() if "_created" not in line]


def test_no_two_sets_of_metrics_share_a_registry(registry: CollectorRegistry) -> None:
    Metrics(registry, "shirts")
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry, "shirts")
