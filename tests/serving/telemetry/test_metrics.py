from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving.errors import STATUS, Overloaded, ServingError
from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.metrics import Metrics
from tests.serving.builders import profile

ON_TIME = Answered(
    variant="int8@1",
    arm="small",
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
LATE = replace(ON_TIME, is_on_time=False)
NO_DEADLINE = replace(ON_TIME, has_deadline=False)

BATCH = Executed("int8@1", samples=8, input_s=0.0001, compute_s=0.002, output_s=0.0009)

SERVED = '{arm="small",model="shirts",variant="int8"}'
INT8 = profile("int8", 0.88, weight_bytes=1_000, artifact_bytes=1_500)
CARD = ("accuracy", "weight_bytes", "artifact_bytes", "variant_info")
"""Series that do not change while a generation is served."""

VARIANT = '{model="shirts",variant="int8"}'
ARM = '{arm="small",model="shirts"}'


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    metrics = Metrics(registry, "shirts")
    metrics.serve({"int8@1": INT8})
    return metrics


def series(registry: CollectorRegistry) -> dict[str, float]:
    """Return the series that events change, without types, creation times and zeros."""
    card = tuple(f"paretoserve_{name}{{" for name in CARD)
    return {
        name: value for name, value in all_series(registry).items() if not name.startswith(card)
    }


def all_series(registry: CollectorRegistry) -> dict[str, float]:
    """Return the series of a scrape, without types, creation times and zeros."""
    scraped = {}
    for line in generate_latest(registry).decode().splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and "_created" not in name and float(value):
            scraped[name] = float(value)
    return scraped


def requests(registry: CollectorRegistry) -> dict[str, float]:
    return {
        name.partition("{")[2].rstrip("}"): value
        for name, value in series(registry).items()
        if name.startswith("paretoserve_requests_total")
    }


def test_an_answer_changes_these_series(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.answered(ON_TIME)
    scraped = {name: value for name, value in series(registry).items() if "_bucket" not in name}
    assert scraped == pytest.approx(
        {
            'paretoserve_requests_total{arm="small",model="shirts",outcome="answered",'
            'variant="int8"}': 1,
            f"paretoserve_request_duration_seconds_count{SERVED}": 1,
            f"paretoserve_request_duration_seconds_sum{SERVED}": 0.004,
            f"paretoserve_queue_duration_seconds_count{VARIANT}": 1,
            f"paretoserve_queue_duration_seconds_sum{VARIANT}": 0.001,
            f"paretoserve_prediction_ratio_count{VARIANT}": 1,
            f"paretoserve_prediction_ratio_sum{VARIANT}": 0.8,
            f"paretoserve_slo_attained_total{SERVED}": 1,
            f"paretoserve_chosen_accuracy_count{ARM}": 1,
            f"paretoserve_chosen_accuracy_sum{ARM}": 0.88,
            f"paretoserve_chosen_agreement_count{ARM}": 1,
            f"paretoserve_chosen_agreement_sum{ARM}": 0.97,
        }
    )


def test_a_batch_changes_these_series(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.executed(BATCH)
    scraped = {name: value for name, value in series(registry).items() if "_bucket" not in name}
    assert scraped == pytest.approx(
        {
            f"paretoserve_compute_duration_seconds_count{VARIANT}": 1,
            f"paretoserve_compute_duration_seconds_sum{VARIANT}": 0.002,
            f"paretoserve_batch_size_count{VARIANT}": 1,
            f"paretoserve_batch_size_sum{VARIANT}": 8,
            f"paretoserve_samples_total{VARIANT}": 8,
        }
    )


def test_a_duration_counts_in_its_bucket(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.answered(ON_TIME)
    scraped = series(registry)
    bucket = 'paretoserve_request_duration_seconds_bucket{{arm="small",le="{}",model="shirts",'
    assert bucket.format("0.003") + 'variant="int8"}' not in scraped
    assert scraped[bucket.format("0.005") + 'variant="int8"}'] == 1


@pytest.mark.parametrize(
    ("event", "outcome", "attained", "missed"),
    [
        pytest.param(ON_TIME, "answered", 1, 0, id="in time"),
        pytest.param(LATE, "late", 0, 1, id="late"),
        pytest.param(NO_DEADLINE, "answered", 0, 0, id="without a deadline"),
    ],
)
def test_only_answers_with_a_deadline_count_for_the_slo(
    registry: CollectorRegistry,
    metrics: Metrics,
    event: Answered,
    outcome: str,
    attained: int,
    missed: int,
) -> None:
    metrics.answered(event)
    assert requests(registry) == {
        f'arm="small",model="shirts",outcome="{outcome}",variant="int8"': 1
    }
    scraped = series(registry)
    assert scraped.get(f"paretoserve_slo_attained_total{SERVED}", 0) == attained
    assert scraped.get(f"paretoserve_slo_missed_total{SERVED}", 0) == missed


OUTCOMES = {
    "InvalidRequest": "rejected",
    "Unauthorized": "rejected",
    "Forbidden": "rejected",
    "ModelNotFound": "rejected",
    "Conflict": "rejected",
    "RequestTooLarge": "rejected",
    "SloUnattainable": "refused",
    "Overloaded": "shed",
    "NotReady": "not_ready",
    "DeadlineExceeded": "expired",
    "InferenceFailed": "failed",
    "Unsupported": "rejected",
}


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
def test_a_failure_counts_by_error_and_by_outcome(
    registry: CollectorRegistry, metrics: Metrics, error: type[ServingError]
) -> None:
    name = error.__name__
    metrics.failed(error("some message"), "small")
    assert series(registry) == {
        f'paretoserve_errors_total{{error="{name}",model="shirts"}}': 1,
        f'paretoserve_requests_total{{arm="small",model="shirts",outcome="{OUTCOMES[name]}",'
        'variant=""}': 1,
    }


def test_any_other_exception_has_the_outcome_failed(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.failed(KeyError("oops"), "")
    assert requests(registry) == {'arm="",model="shirts",outcome="failed",variant=""': 1}


def test_messages_do_not_become_labels(registry: CollectorRegistry, metrics: Metrics) -> None:
    for i in range(100):
        metrics.failed(Overloaded(f"about {i} ms late"), "")
        metrics.answered(replace(ON_TIME, took_s=i / 1000))
    scraped = series(registry)
    assert [name for name in scraped if "late" in name] == []
    # The number of series does not depend on the number of requests. Buckets are not counted.
    assert len([name for name in scraped if "_bucket" not in name]) == 14


def test_decisions_and_lost_hosts_are_counted(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.decided(0.00003)
    metrics.decided(0.3)
    metrics.host_lost("int8@1")
    scraped = series(registry)
    assert scraped["paretoserve_router_decision_seconds_count"] == 2
    assert scraped['paretoserve_router_decision_seconds_bucket{le="5e-05"}'] == 1
    assert scraped[f"paretoserve_hosts_lost_total{VARIANT}"] == 1


def test_gauges_show_the_report_cards(registry: CollectorRegistry, metrics: Metrics) -> None:
    assert all_series(registry) == {
        f"paretoserve_accuracy{VARIANT}": 0.88,
        f"paretoserve_weight_bytes{VARIANT}": 1_000,
        f"paretoserve_artifact_bytes{VARIANT}": 1_500,
        'paretoserve_variant_info{generation="1",model="shirts",variant="int8"}': 1,
    }


def test_the_series_of_a_replaced_generation_end_and_those_of_the_next_begin_at_0(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.serve({"int8@1": INT8, "dense@1": profile("dense", 0.9)})
    for event in (ON_TIME, LATE, replace(ON_TIME, variant="dense@1")):
        metrics.answered(event)
    metrics.executed(BATCH)
    metrics.host_lost("int8@1")
    metrics.host_usage(HostUsage("int8@1", 2, 2_000, 500))
    metrics.tick(1.0)
    metrics.serve(
        {"int8@2": replace(INT8, generation=2, accuracy=0.87), "dense@1": profile("dense", 0.9)}
    )
    assert {name: value for name, value in all_series(registry).items() if '"int8"' in name} == {
        f"paretoserve_accuracy{VARIANT}": 0.87,
        f"paretoserve_weight_bytes{VARIANT}": 1_000,
        f"paretoserve_artifact_bytes{VARIANT}": 1_500,
        'paretoserve_variant_info{generation="2",model="shirts",variant="int8"}': 1,
    }
    assert requests(registry) == {
        'arm="small",model="shirts",outcome="answered",variant="dense"': 1
    }, "another variant has lost its counts"
    metrics.answered(replace(ON_TIME, variant="int8@2"))
    assert series(registry)[f"paretoserve_slo_attained_total{SERVED}"] == 1


def test_a_generation_that_is_served_again_begins_at_0(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    for profiles in {"int8@2": replace(INT8, generation=2)}, {"int8@1": INT8}:
        metrics.answered(ON_TIME)
        metrics.executed(BATCH)
        metrics.tick(1.0)
        metrics.serve(profiles)
    metrics.answered(ON_TIME)
    metrics.executed(BATCH)
    metrics.tick(1.0)
    scraped = series(registry)
    assert scraped[f"paretoserve_request_duration_seconds_count{SERVED}"] == 1
    assert scraped[f"paretoserve_samples_total{VARIANT}"] == 8
    assert scraped[f"paretoserve_throughput_samples_per_second{VARIANT}"] == 8


def test_an_answer_of_a_generation_that_is_not_served_any_more_counts_for_no_variant(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.serve({"int8@2": replace(INT8, generation=2)})
    metrics.answered(ON_TIME)
    metrics.executed(BATCH)
    metrics.host_lost("int8@1")
    metrics.host_usage(HostUsage("int8@1", 2, 2_000, 500))
    metrics.tick(1.0)
    assert series(registry) == {
        'paretoserve_requests_total{arm="small",model="shirts",outcome="answered",variant=""}': 1,
        f"paretoserve_chosen_accuracy_count{ARM}": 1,
        f"paretoserve_chosen_accuracy_sum{ARM}": 0.88,
        f"paretoserve_chosen_agreement_count{ARM}": 1,
        f"paretoserve_chosen_agreement_sum{ARM}": 0.97,
    }


def test_adding_and_removing_variants_leaves_no_series(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    counts = []
    for number in range(20):
        name = f"v{number}"
        metrics.serve({"int8@1": INT8, f"{name}@1": profile(name)})
        metrics.answered(replace(ON_TIME, variant=f"{name}@1", arm=""))
        metrics.executed(replace(BATCH, variant=f"{name}@1"))
        metrics.tick(1.0)
        metrics.serve({"int8@1": INT8})
        scraped = generate_latest(registry).decode().splitlines()
        assert [line for line in scraped if f'"{name}"' in line] == []
        counts.append(len(scraped))
    assert counts[-1] == counts[0]


def test_replicas_and_memory_are_those_of_the_last_report(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.host_usage(HostUsage("int8@1", 3, 3_000, None))
    assert f"paretoserve_gpu_memory_bytes{VARIANT}" not in series(registry)
    metrics.host_usage(HostUsage("int8@1", 2, 2_000, 500))
    assert series(registry) == {
        f"paretoserve_replicas{VARIANT}": 2,
        f"paretoserve_resident_bytes{VARIANT}": 2_000,
        f"paretoserve_gpu_memory_bytes{VARIANT}": 500,
    }


def test_throughput_is_measured_since_the_last_tick(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    name = f"paretoserve_throughput_samples_per_second{VARIANT}"
    for _ in range(3):
        metrics.executed(BATCH)
    metrics.tick(0.5)
    assert series(registry)[name] == 3 * 8 / 0.5
    metrics.executed(BATCH)
    metrics.tick(2.0)
    assert series(registry)[name] == 8 / 2.0
    metrics.tick(1.0)
    assert name not in series(registry), "the throughput of an idle variant is not 0"


def test_the_queue_length_is_read_at_each_scrape(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    queue = ["a", "b"]
    metrics.queue_length(lambda: len(queue))
    assert series(registry) == {"paretoserve_queue_length": 2}
    queue.append("c")
    assert series(registry) == {"paretoserve_queue_length": 3}


def test_two_gateways_share_no_metrics() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first, "shirts").host_lost("int8@1")
    Metrics(second, "shirts")
    assert series(second) == {}


def test_samples_that_are_not_computed_count_as_saved(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.cancelled("queued", 3)
    metrics.cancelled("running", 5)
    metrics.expired(2)
    assert series(registry) == {
        'paretoserve_cancelled_total{model="shirts",stage="queued"}': 1,
        'paretoserve_cancelled_total{model="shirts",stage="running"}': 1,
        'paretoserve_saved_samples_total{model="shirts"}': 5,
    }


def test_that_a_variant_has_no_host_is_exported_as_long_as_it_is_true(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    failing = "paretoserve_variant_failing"
    metrics.set_failing({"int8@1", "another@1"})
    labels = '{model="shirts",variant="int8"}'
    assert {name for name in series(registry) if failing in name} == {failing + labels}
    metrics.set_failing(set())
    assert not {name for name in series(registry) if failing in name}
