"""Whatever is simulated: every request is settled once, as its class allows, and always alike."""

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

from loadtests.simulator.simulate import Fault, HostFailure, SimulatedService, Slowdown, simulate
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.arrivals import Gamma
from loadtests.workload.draw import draw
from loadtests.workload.workload import SloClass
from serving.routing.planner import NO_REPLICA_TIMEOUT_S
from serving.routing.policy import POLICIES
from serving.routing.policy.pareto import pareto
from serving.routing.profile import qualifying
from serving.routing.slo import Slo
from tests.loadtests.simulator.services import OFFERS, exactly, workload

ROOT = Path(__file__).parents[3]

CLASSES = (
    SloClass("any", Slo(latency_s=0.020)),
    SloClass("good", Slo(latency_s=0.030, min_accuracy=0.93, priority=1)),
    SloClass("best", Slo(latency_s=0.050, max_accuracy_drop=0.0), size=3),
    SloClass("quick", Slo(latency_s=0.006, objective="latency"), size=2),
    SloClass("cheap", Slo(latency_s=0.100, objective="cost", priority=20)),
    SloClass("pinned", Slo(latency_s=0.040, variant="sparse")),
    SloClass("patient", Slo()),
    SloClass("hopeless", Slo(latency_s=0.0001)),
)

every_policy = pytest.mark.parametrize("name", POLICIES)

services = st.builds(
    SimulatedService,
    profiles=st.just(OFFERS),
    cores=st.sampled_from([1, 2, 4]),
    slots=st.sampled_from([1, 2]),
    max_batch=st.sampled_from([3, 16, 64]),
    max_queue=st.sampled_from([5, 2000]),
    link_s=st.sampled_from([0.0, 0.0005]),
    gateways=st.integers(1, 3),
)
times = st.floats(0.0, 0.3)
faults = st.lists(
    st.one_of(
        st.builds(HostFailure, times, st.sampled_from(list(OFFERS)), st.floats(0.001, 0.3)),
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
@given(service=services, asked=requests, faults=faults, seed=st.integers(0, 99))
def test_every_request_is_settled_once_and_as_its_class_allows(
    name: str,
    service: SimulatedService,
    asked: list[tuple[float, int]],
    faults: list[Fault],
    seed: int,
) -> None:
    arrivals = np.cumsum([gap for gap, _ in asked])
    made = workload(arrivals.tolist(), CLASSES, [chosen for _, chosen in asked])
    # Which raises if a request is settled twice, or never.
    found = simulate(service, made, POLICIES[name], name=name, seed=seed, faults=faults)
    check(found, service)
    is_hopeless = made.class_of == len(CLASSES) - 1
    assert np.array_equal(found.status == RequestStatus.UNATTAINABLE, is_hopeless)
    if not any(isinstance(each, HostFailure) for each in faults):
        assert not np.any(found.status == RequestStatus.FAILED)
        is_patient = np.isinf(made.latencies_s)
        assert not np.any(found.status[is_patient] == RequestStatus.EXPIRED)


def check(found: Outcomes, service: SimulatedService) -> None:
    """What holds for whatever was simulated."""
    made = found.workload
    assert not np.any(found.status == RequestStatus.LOST)
    assert np.all(found.finished_s >= made.arrivals_s)
    is_answered = found.status == RequestStatus.ANSWERED
    assert np.array_equal(found.variant >= 0, is_answered)
    assert np.array_equal(found.batch_size > 0, is_answered)
    assert np.all(found.batch_size[is_answered] >= made.sizes[is_answered])
    for chosen, variant in zip(made.class_of[is_answered], found.variant[is_answered], strict=True):
        allowed = qualifying(service.profiles, made.classes[chosen].slo)
        assert found.variants[variant] in allowed, "below its floor"
    batches = found.batches
    assert batches is not None
    assert np.all(batches.size <= service.max_batch)
    assert batches.size.sum() == made.sizes[is_answered].sum()
    assert np.all(batches.took_s > 0)


def a_run(gateways: int = 2, seed: int = 3) -> Outcomes:
    """One with a bit of everything, at about the capacity of the fastest."""
    return simulate(
        SimulatedService(OFFERS, cores=2, gateways=gateways),
        draw(Gamma(4.0), CLASSES[:-1], 3000.0, 0.5, seed=0),
        pareto,
        name="pareto",
        seed=seed,
        faults=[HostFailure(0.1, "int8", 0.1), Slowdown(0.3, 2.0)],
    )


def digest(found: Outcomes) -> str:
    assert found.batches is not None
    whole = hashlib.sha256()
    for column in (found.status, found.variant, found.finished_s, found.batch_size):
        whole.update(column.tobytes())
    for column in (found.batches.size, found.batches.sent_s, found.batches.predicted_s):
        whole.update(column.tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("gateways", [1, 3])
def test_the_same_seed_gives_the_same_outcomes_and_another_does_not(gateways: int) -> None:
    assert digest(a_run(gateways)) == digest(a_run(gateways))
    assert digest(a_run(gateways)) != digest(a_run(gateways, seed=4))


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_order_of_sets_in_another_process_does_not_matter(hash_seed: str) -> None:
    program = (
        "from tests.loadtests.simulator.test_simulate import a_run, digest; print(digest(a_run()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == digest(a_run())


@pytest.mark.parametrize("gateways", [1, 2, 4])
def test_a_host_is_never_idle_while_any_gateway_has_requests_for_it(gateways: int) -> None:
    made = workload([0.0] * 12, [SloClass("patient", Slo())])
    found = simulate(exactly(1.0, gateways=gateways), made, pareto, name="pareto", seed=1)
    assert sorted(found.finished_s) == pytest.approx(list(range(1, 13)))


def test_gateways_that_share_a_host_see_their_batches_take_longer() -> None:
    made = workload([0.0] * 12, [SloClass("patient", Slo())])
    took_s = {}
    for gateways in (1, 4):
        service = exactly(1.0, gateways=gateways)
        found = simulate(service, made, pareto, name="pareto", seed=1).batches
        assert found is not None
        took_s[gateways] = sorted(found.took_s)
    assert took_s[1] == pytest.approx([1.0] * 12)
    # The host has one batch of each gateway, so the fourth of them waits for three.
    assert took_s[4][-1] == pytest.approx(4.0)
    assert max(took_s[4]) <= 4.0 + 1e-9


def test_what_a_host_held_when_it_died_is_answered_once_it_is_back() -> None:
    made = workload([0.0, 0.0], [SloClass("patient", Slo())])
    for gateways in (1, 2):
        found = simulate(
            exactly(1.0, gateways=gateways),
            made,
            pareto,
            name="pareto",
            seed=1,
            faults=[HostFailure(0.5, "dense", 2.0)],
        )
        assert found.status.tolist() == [RequestStatus.ANSWERED] * 2
        assert sorted(found.finished_s) == pytest.approx([3.5, 4.5])


def test_a_request_that_lost_its_host_twice_fails() -> None:
    made = workload([0.0], [SloClass("patient", Slo())])
    deaths = [HostFailure(0.5, "dense", 0.5), HostFailure(1.5, "dense", 0.5)]
    found = simulate(exactly(1.0), made, pareto, name="pareto", faults=deaths)
    assert (found.status[0], found.finished_s[0]) == (RequestStatus.FAILED, 1.5)


def test_who_has_no_deadline_gives_up_on_a_host_that_stays_away() -> None:
    made = workload([0.0], [SloClass("patient", Slo())])
    death = HostFailure(0.5, "dense", math.inf)
    found = simulate(exactly(1.0), made, pareto, name="pareto", faults=[death])
    assert (found.status[0], found.finished_s[0]) == (
        RequestStatus.FAILED,
        0.5 + NO_REPLICA_TIMEOUT_S,
    )


def test_a_slowdown_doubles_what_batches_take() -> None:
    made = workload([0.0, 10.0], [SloClass("patient", Slo())])
    found = simulate(exactly(1.0), made, pareto, name="pareto", faults=[Slowdown(5.0, 2.0)])
    assert found.finished_s == pytest.approx([1.0, 12.0])
