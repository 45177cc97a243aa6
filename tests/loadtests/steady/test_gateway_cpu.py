"""The fit of a gateway's costs to its CPU time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from loadtests.steady.gateway_cpu import GatewayCounters, GatewayLoad, fit_costs, parse_counters

IDLE = GatewayLoad("idle", 3.0, 0, 0, 0, 0.03)


def load(name: str, answers: int, refusals: int, batches: int) -> GatewayLoad:
    """A load on a gateway: 0.4 ms an answer, 0.5 ms a batch, 0.3 ms a refusal, 1 % when idle."""
    cpu_s = 0.4e-3 * answers + 0.5e-3 * batches + 0.3e-3 * refusals + 0.01 * 3.0
    return GatewayLoad(name, 3.0, answers, refusals, batches, cpu_s)


LOADS = [IDLE, load("1", 1000, 0, 1000), load("64", 4000, 0, 100), load("refused", 0, 8000, 0)]


def test_costs_are_found_again() -> None:
    costs = fit_costs(LOADS, turns_per_batch=2)
    assert costs.per_request_s + costs.per_answer_s == pytest.approx(0.4e-3)
    assert costs.per_request_s + costs.per_refusal_s == pytest.approx(0.3e-3)
    assert costs.per_batch_s == pytest.approx(0.5e-3)
    assert costs.turns_per_batch == 2


def test_a_cost_is_never_negative() -> None:
    # Small batches took less CPU time than large ones, which noise may cause.
    noisy = [IDLE, replace(LOADS[1], cpu_s=0.2), *LOADS[2:]]
    costs = fit_costs(noisy, turns_per_batch=0)
    assert costs.per_batch_s == 0.0
    assert costs.per_answer_s > 0.0


def test_loads_that_do_not_tell_the_costs_apart_are_rejected() -> None:
    same_size = [IDLE, load("1", 1000, 0, 1000), load("2", 2000, 0, 2000), LOADS[3]]
    with pytest.raises(ValueError, match="batches of different sizes"):
        fit_costs(same_size, turns_per_batch=0)


def test_counters_are_read_from_metrics() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    batch_size = Histogram(
        "paretoserve_batch_size", "Samples in a batch.", ("variant",), registry=registry
    )
    for variant in ("dense", "int8", "int8"):
        batch_size.labels(variant).observe(4)
    counters = parse_counters(generate_latest(registry).decode())
    assert counters.batches == 3
    assert counters.cpu_s > 0
    assert counters.since(GatewayCounters(counters.cpu_s, 1.0)) == GatewayCounters(0.0, 2.0)
    with pytest.raises(ValueError, match="no process_cpu_seconds_total"):
        parse_counters("")
