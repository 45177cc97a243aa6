"""Every simulated request has one outcome that its class allows; results are reproducible."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.simulator.faults import Fault, HostFailure, Slowdown
from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import simulate
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.arrivals import Gamma
from loadtests.workload.draw import draw
from loadtests.workload.workload import SloClass
from serving.routing.outage import OUTAGE_S
from serving.routing.policy import POLICIES
from serving.routing.policy.pareto import pareto
from serving.routing.profile import qualifying
from serving.routing.slo import Slo
from tests.loadtests.simulator.services import PROFILES, constant_time_service, workload

ROOT = Path(__file__).parents[3]

CLASSES = (
    SloClass("any", Slo(latency_s=0.020)),
    SloClass("good", Slo(latency_s=0.030, min_accuracy=0.93, priority=1)),
    SloClass("best", Slo(latency_s=0.050, max_accuracy_drop=0.0), size=3),
    SloClass("quick", Slo(latency_s=0.006, objective="latency"), size=2),
    SloClass("cheap", Slo(latency_s=0.100, objective="cost", priority=20)),
    SloClass("pinned", Slo(latency_s=0.040, variant="sparse")),
    SloClass("no deadline", Slo()),
    SloClass("unattainable", Slo(latency_s=0.0001)),
)

every_policy = pytest.mark.parametrize("name", POLICIES)

services = st.builds(
    SimulatedService,
    profiles=st.just(PROFILES),
    cores=st.sampled_from([1, 2, 4]),
    slots=st.sampled_from([1, 2]),
    max_batch=st.sampled_from([3, 16, 64]),
    max_queue=st.sampled_from([5, 2000]),
    link_s=st.sampled_from([0.0, 0.0005]),
    gateways=st.integers(1, 3),
    costs=st.builds(
        GatewayCosts,
        per_request_s=st.sampled_from([0.0, 0.0002]),
        per_answer_s=st.sampled_from([0.0, 0.0003]),
        per_refusal_s=st.sampled_from([0.0, 0.0001]),
        per_batch_s=st.sampled_from([0.0, 0.0005]),
        per_turn_s=st.sampled_from([0.0, 0.00005]),
        turns_per_batch=st.integers(0, 3),
    ),
    is_arrival_known=st.booleans(),
)
times = st.floats(0.0, 0.3)
faults = st.lists(
    st.one_of(
        st.builds(HostFailure, times, st.sampled_from(list(PROFILES)), st.floats(0.001, 0.3)),
        st.builds(Slowdown, times, st.sampled_from([0.5, 1.0, 3.0, 20.0])),
    ),
    max_size=4,
)
requests = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.0003, 0.002, 0.02]), st.integers(0, len(CLASSES) - 1)),
    min_size=1,
    max_size=80,
)


@every_policy
@settings(max_examples=30, deadline=None)
@given(service=services, requests=requests, faults=faults, seed=st.integers(0, 99))
def test_every_request_has_one_outcome_that_its_class_allows(
    name: str,
    service: SimulatedService,
    requests: list[tuple[float, int]],
    faults: list[Fault],
    seed: int,
) -> None:
    arrivals = np.cumsum([gap for gap, _ in requests])
    load = workload(arrivals.tolist(), CLASSES, [class_ for _, class_ in requests])
    # Raises if a request has no outcome or two.
    outcomes = simulate(service, load, POLICIES[name], name=name, seed=seed, faults=faults)
    check(outcomes, service)
    is_unattainable = load.class_of == len(CLASSES) - 1
    assert np.array_equal(outcomes.status == RequestStatus.UNATTAINABLE, is_unattainable)
    if not any(isinstance(each, HostFailure) for each in faults):
        assert not np.any(outcomes.status == RequestStatus.FAILED)
        has_no_deadline = np.isinf(load.latencies_s)
        assert not np.any(outcomes.status[has_no_deadline] == RequestStatus.EXPIRED)


def check(outcomes: Outcomes, service: SimulatedService) -> None:
    """Check the properties of all simulations."""
    load = outcomes.workload
    assert not np.any(outcomes.status == RequestStatus.LOST)
    assert np.all(outcomes.finished_s >= load.arrivals_s)
    is_answered = outcomes.status == RequestStatus.ANSWERED
    assert np.array_equal(outcomes.variant >= 0, is_answered)
    assert np.array_equal(outcomes.batch_size > 0, is_answered)
    assert np.all(outcomes.batch_size[is_answered] >= load.sizes[is_answered])
    for class_, variant in zip(
        load.class_of[is_answered], outcomes.variant[is_answered], strict=True
    ):
        allowed = qualifying(service.profiles, load.classes[class_].slo)
        assert outcomes.variants[variant] in allowed, "the variant does not qualify"
    batches = outcomes.batches
    assert batches is not None
    assert np.all(batches.size <= service.max_batch)
    assert batches.size.sum() == load.sizes[is_answered].sum()
    assert np.all(batches.took_s > 0)


def run_scenario(gateways: int = 2, seed: int = 3) -> Outcomes:
    """Simulate all classes and faults, at about the capacity of the fastest variant."""
    return simulate(
        SimulatedService(PROFILES, cores=2, gateways=gateways),
        draw(Gamma(4.0), CLASSES[:-1], 3000.0, 0.2, seed=0),
        pareto,
        name="pareto",
        seed=seed,
        faults=[HostFailure(0.04, "int8", 0.04), Slowdown(0.12, 2.0)],
    )


def digest(outcomes: Outcomes) -> str:
    assert outcomes.batches is not None
    hasher = hashlib.sha256()
    for column in (outcomes.status, outcomes.variant, outcomes.finished_s, outcomes.batch_size):
        hasher.update(column.tobytes())
    for column in (outcomes.batches.size, outcomes.batches.sent_s, outcomes.batches.predicted_s):
        hasher.update(column.tobytes())
    return hasher.hexdigest()


@pytest.mark.parametrize("gateways", [1, 3])
def test_equal_seeds_give_equal_outcomes_and_different_ones_do_not(gateways: int) -> None:
    first = digest(run_scenario(gateways))
    assert digest(run_scenario(gateways)) == first
    assert digest(run_scenario(gateways, seed=4)) != first


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_outcomes_do_not_depend_on_the_order_of_sets(hash_seed: str) -> None:
    module = "tests.loadtests.simulator.test_simulate"
    program = f"from {module} import run_scenario, digest; print(digest(run_scenario()))"
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == digest(run_scenario())


@pytest.mark.parametrize("gateways", [1, 2, 4])
def test_a_host_is_not_idle_while_a_gateway_has_requests(gateways: int) -> None:
    load = workload([0.0] * 12, [SloClass("no deadline", Slo())])
    outcomes = simulate(
        constant_time_service(1.0, gateways=gateways), load, pareto, name="pareto", seed=1
    )
    assert sorted(outcomes.finished_s) == pytest.approx(list(range(1, 13)))


def test_batches_take_longer_if_gateways_share_a_host() -> None:
    load = workload([0.0] * 12, [SloClass("no deadline", Slo())])
    took_s = {}
    for gateways in (1, 4):
        service = constant_time_service(1.0, gateways=gateways)
        batches = simulate(service, load, pareto, name="pareto", seed=1).batches
        assert batches is not None
        took_s[gateways] = sorted(batches.took_s)
    assert took_s[1] == pytest.approx([1.0] * 12)
    # Each gateway sends one batch at a time, so the fourth batch waits for three.
    assert took_s[4][-1] == pytest.approx(4.0)
    assert max(took_s[4]) <= 4.0 + 1e-9


def test_requests_of_a_failed_host_are_answered_after_it_is_back() -> None:
    load = workload([0.0, 0.0], [SloClass("no deadline", Slo())])
    for gateways in (1, 2):
        outcomes = simulate(
            constant_time_service(1.0, gateways=gateways),
            load,
            pareto,
            name="pareto",
            seed=1,
            faults=[HostFailure(0.5, "dense", 2.0)],
        )
        assert outcomes.status.tolist() == [RequestStatus.ANSWERED] * 2
        assert sorted(outcomes.finished_s) == pytest.approx([3.5, 4.5])


def test_a_request_whose_host_fails_twice_fails() -> None:
    load = workload([0.0], [SloClass("no deadline", Slo())])
    failures = [HostFailure(0.5, "dense", 0.5), HostFailure(1.5, "dense", 0.5)]
    outcomes = simulate(constant_time_service(1.0), load, pareto, name="pareto", faults=failures)
    assert (outcomes.status[0], outcomes.finished_s[0]) == (RequestStatus.FAILED, 1.5)


def test_a_request_without_a_deadline_fails_if_no_host_comes_back() -> None:
    load = workload([0.0], [SloClass("no deadline", Slo())])
    failure = HostFailure(0.5, "dense", math.inf)
    outcomes = simulate(constant_time_service(1.0), load, pareto, name="pareto", faults=[failure])
    assert (outcomes.status[0], outcomes.finished_s[0]) == (
        RequestStatus.FAILED,
        0.5 + OUTAGE_S,
    )


def test_a_slowdown_of_2_doubles_the_duration_of_batches() -> None:
    load = workload([0.0, 10.0], [SloClass("no deadline", Slo())])
    outcomes = simulate(
        constant_time_service(1.0), load, pareto, name="pareto", faults=[Slowdown(5.0, 2.0)]
    )
    assert outcomes.finished_s == pytest.approx([1.0, 12.0])
