"""Comparisons of policies on one simulated service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.simulator.compare import compare, parse_policies
from loadtests.simulator.faults import HostFailure, Slowdown, parse_host_failure, parse_slowdown
from loadtests.simulator.service import SimulatedService
from loadtests.trials.outcomes import RequestStatus
from loadtests.trials.overview import overview
from loadtests.trials.runs import Trial
from loadtests.workload.demand import Demand, parse_demand
from serving.routing.policy import POLICIES
from tests.serving.builders import PROFILES

SERVICE = SimulatedService(PROFILES, cores=1)


def demand(arrivals: str = "gamma:cv2=2", requests: int = 300) -> Demand:
    return parse_demand(arrivals, ["latency_ms=4"], load=0.5, requests=requests, profiles=PROFILES)


def test_policies_are_in_the_order_of_the_table() -> None:
    assert parse_policies([]) == tuple(POLICIES)
    assert parse_policies(["fifo, all"]) == tuple(POLICIES)
    assert parse_policies(["slack_fit,pareto", "fixed"]) == ("pareto", "fixed", "slack_fit")
    with pytest.raises(ValueError, match="no policy 'none'; the policies are pareto, "):
        parse_policies(["pareto,none"])


def test_all_policies_get_the_same_requests_and_the_same_bound() -> None:
    comparison = compare(SERVICE, demand(), tuple(POLICIES), seed=1)
    assert comparison.requests == len(POLICIES) * len(comparison.outcomes[0].workload)
    assert len({id(each.workload) for each in comparison.outcomes}) == 1
    bounds = {run.attainable for run in comparison.runs}
    assert len(bounds) == 1
    assert bounds.pop() == pytest.approx(1.0)
    for run in comparison.runs:
        assert run.score.regret is not None
        assert -1e-6 <= run.score.regret <= 1
        assert run.score.floor_violations == 0
        assert run.score.status_shares["lost"] == 0
        assert (run.condition.kind, run.condition.cv2, run.condition.load) == ("gamma", 2, 0.5)


def test_the_bound_accounts_for_host_failures() -> None:
    without_failures = compare(SERVICE, demand(), ["fastest"], seed=0)
    failures = [HostFailure(0.0, name, 1000.0) for name in PROFILES]
    with_failures = compare(SERVICE, demand(), ["fastest"], seed=0, faults=failures)
    assert without_failures.runs[0].attainable == pytest.approx(1.0)
    assert with_failures.runs[0].attainable == pytest.approx(0.0, abs=1e-6)
    assert not (with_failures.outcomes[0].status == RequestStatus.ANSWERED).any()


def test_overlapping_host_failures_count_once() -> None:
    service = SimulatedService(PROFILES, cores=1, max_batch=1)
    demand_ = parse_demand("uniform", ["latency_ms=40"], load=0.5, requests=300, profiles=PROFILES)

    def attainable(*failures: HostFailure) -> float:
        attainment = compare(service, demand_, ["fastest"], 0, faults=failures).runs[0].attainable
        assert attainment is not None
        return attainment

    once = attainable(*(HostFailure(0.021, name, 0.006) for name in PROFILES))
    overlapping = [
        HostFailure(at_s, name, 0.004) for at_s in (0.023, 0.022, 0.021) for name in PROFILES
    ]
    assert attainable(*overlapping) == pytest.approx(once, abs=1e-9)
    assert once < attainable(*(HostFailure(0.021, name, 0.001) for name in PROFILES)) - 0.02 < 0.8


@pytest.mark.parametrize("late", [HostFailure(2.0, "dense", 1.0), Slowdown(2.0, 3.0)])
def test_a_fault_after_the_last_request_is_rejected(late: HostFailure | Slowdown) -> None:
    demand_ = replace(demand(), seconds=1.47)
    with pytest.raises(ValueError, match=r"at 2 s comes after the last request, at 1\.47 s; give"):
        compare(SERVICE, demand_, ["fastest"], 0, faults=[Slowdown(0.1, 2.0), late])


def test_the_condition_of_other_arrivals_has_their_description() -> None:
    comparison = compare(SERVICE, demand("bursts:extra=2,cv2=4"), ["fifo"], 0, is_bounded=False)
    assert comparison.runs[0].condition.label == "bursts extra=2 cv2=4, load 0.5"
    assert comparison.runs[0].attainable is None
    assert comparison.runs[0].score.regret is None


def test_the_overview_has_variant_shares_and_the_share_of_batches_within_predictions() -> None:
    runs = [run for seed in (0, 1) for run in compare(SERVICE, demand(), ["fixed"], seed).runs]
    (grid,) = overview(Trial(title="Test", note="a note", runs=tuple(runs)))
    assert grid.title == "Test"
    assert grid.note.startswith("a note. ")
    assert grid.columns == (
        "policy", "on time, %", "accuracy, %", "utility, %", "regret, %", "p50, ms", "p99, ms",
        "predicted, %", "answered by, %",
    )  # fmt: skip
    (row,) = grid.rows
    coverages = [run.calibration.overall for run in runs if run.calibration]
    batches = sum(each.batches for each in coverages)
    within = sum(each.within.value * each.batches for each in coverages) / batches
    assert row[-2:] == (f"{100 * within:.1f}", "dense 100")
    assert row[0] == "fixed"


def test_faults_are_parsed() -> None:
    assert parse_host_failure("a@b@1.5+2", ["a@b"]) == HostFailure(1.5, "a@b", 2.0)
    assert parse_slowdown("2.5@10") == Slowdown(10.0, 2.5)


@pytest.mark.parametrize("text", ["dense", "dense@1", "dense@1+", "dense@-1+1", "dense@nan+1"])
def test_an_invalid_host_failure_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"AT|FOR"):
        parse_host_failure(text, ["dense"])


@pytest.mark.parametrize("text", ["2", "two@1", "inf@1", "nan@1", "2@-1", "0.9@1"])
def test_an_invalid_slowdown_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="FACTOR"):
        parse_slowdown(text)
