"""Policies side by side on a service that is made up, and what is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.simulator.compare import compare, parse_policies
from loadtests.simulator.faults import parse_host_failure, parse_slowdown
from loadtests.simulator.simulate import HostFailure, SimulatedService, Slowdown
from loadtests.trials.outcomes import RequestStatus
from loadtests.trials.overview import overview
from loadtests.trials.runs import Trial
from loadtests.workload.demand import Demand, parse_demand
from serving.routing.policy import POLICIES
from tests.serving.builders import PROFILES

SERVICE = SimulatedService(PROFILES, cores=1)


def demand(arrivals: str = "gamma:cv2=2", requests: int = 300) -> Demand:
    return parse_demand(arrivals, ["latency_ms=4"], load=0.5, requests=requests, profiles=PROFILES)


def test_policies_come_in_the_order_of_the_table_whatever_was_typed() -> None:
    assert parse_policies([]) == tuple(POLICIES)
    assert parse_policies(["fifo, all"]) == tuple(POLICIES)
    assert parse_policies(["slack_fit,pareto", "fixed"]) == ("pareto", "fixed", "slack_fit")
    with pytest.raises(ValueError, match="no policy 'none'; the policies are pareto, "):
        parse_policies(["pareto,none"])


def test_every_policy_has_the_same_requests_and_the_same_bound() -> None:
    compared = compare(SERVICE, demand(), tuple(POLICIES), seed=1)
    assert compared.requests == len(POLICIES) * len(compared.outcomes[0].workload)
    assert len({id(each.workload) for each in compared.outcomes}) == 1
    bounds = {run.attainable for run in compared.runs}
    assert len(bounds) == 1
    assert bounds.pop() == pytest.approx(1.0)
    for run in compared.runs:
        assert run.score.regret is not None
        assert -1e-6 <= run.score.regret <= 1
        assert run.score.floor_violations == 0
        assert run.score.status_shares["lost"] == 0
        assert (run.condition.kind, run.condition.cv2, run.condition.load) == ("gamma", 2, 0.5)


def test_a_bound_knows_when_hosts_are_dead() -> None:
    calm = compare(SERVICE, demand(), ["fastest"], seed=0)
    dead = [HostFailure(0.0, name, 1000.0) for name in PROFILES]
    struck = compare(SERVICE, demand(), ["fastest"], seed=0, faults=dead)
    assert calm.runs[0].attainable == pytest.approx(1.0)
    assert struck.runs[0].attainable == pytest.approx(0.0, abs=1e-6)
    assert not (struck.outcomes[0].status == RequestStatus.ANSWERED).any()


def test_hosts_that_die_again_while_they_are_dead_are_missed_but_once() -> None:
    service = SimulatedService(PROFILES, cores=1, max_batch=1)
    asked = parse_demand("uniform", ["latency_ms=40"], load=0.5, requests=300, profiles=PROFILES)

    def attainable(*deaths: HostFailure) -> float:
        found = compare(service, asked, ["fastest"], 0, faults=deaths).runs[0].attainable
        assert found is not None
        return found

    once = attainable(*(HostFailure(0.021, name, 0.006) for name in PROFILES))
    again = [HostFailure(at_s, name, 0.004) for at_s in (0.023, 0.022, 0.021) for name in PROFILES]
    assert attainable(*again) == pytest.approx(once, abs=1e-9)
    assert once < attainable(*(HostFailure(0.021, name, 0.001) for name in PROFILES)) - 0.02 < 0.8


@pytest.mark.parametrize("late", [HostFailure(2.0, "dense", 1.0), Slowdown(2.0, 3.0)])
def test_what_happens_after_the_last_request_is_refused(late: HostFailure | Slowdown) -> None:
    asked = replace(demand(), seconds=1.47)
    with pytest.raises(ValueError, match=r"at 2 s comes after the last request, at 1\.47 s; give"):
        compare(SERVICE, asked, ["fastest"], 0, faults=[Slowdown(0.1, 2.0), late])


def test_arrivals_of_another_kind_are_a_condition_of_their_own() -> None:
    compared = compare(SERVICE, demand("bursts:extra=2,cv2=4"), ["fifo"], 0, is_bounded=False)
    assert compared.runs[0].condition.label == "bursts extra=2 cv2=4, load 0.5"
    assert compared.runs[0].attainable is None
    assert compared.runs[0].score.regret is None


def test_the_overview_says_who_answered_and_how_many_batches_were_as_predicted() -> None:
    runs = [run for seed in (0, 1) for run in compare(SERVICE, demand(), ["fixed"], seed).runs]
    (grid,) = overview(Trial(title="Made up", note="by hand", runs=tuple(runs)))
    assert grid.title == "Made up"
    assert grid.note.startswith("by hand. ")
    assert grid.columns == (
        "policy", "on time, %", "accuracy, %", "utility, %", "regret, %", "p50, ms", "p99, ms",
        "predicted, %", "answered by, %",
    )  # fmt: skip
    (row,) = grid.rows
    held = [run.calibration.overall for run in runs if run.calibration]
    batches = sum(each.batches for each in held)
    within = sum(each.within.value * each.batches for each in held) / batches
    assert row[-2:] == (f"{100 * within:.1f}", "dense 100")
    assert row[0] == "fixed"


def test_faults_are_read_as_they_are_written() -> None:
    assert parse_host_failure("a@b@1.5+2", ["a@b"]) == HostFailure(1.5, "a@b", 2.0)
    assert parse_slowdown("2.5@10") == Slowdown(10.0, 2.5)


@pytest.mark.parametrize("text", ["dense", "dense@1", "dense@1+", "dense@-1+1", "dense@nan+1"])
def test_a_death_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"AT|FOR"):
        parse_host_failure(text, ["dense"])


@pytest.mark.parametrize("text", ["2", "two@1", "inf@1", "nan@1", "2@-1", "0.9@1"])
def test_a_slowdown_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FACTOR"):
        parse_slowdown(text)
