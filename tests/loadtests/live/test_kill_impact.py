from __future__ import annotations

import numpy as np
import pytest

from loadtests.live.fault_injection import HostKill
from loadtests.live.kill_impact import kill_grids, summarize_kills
from loadtests.simulator.faults import HostFailure
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo

STARTED_S = 1000.0


def outcomes(rows: list[tuple[float, float, RequestStatus]], latency_s: float = 1.0) -> Outcomes:
    """Return outcomes of a workload of 60 s, from rows of arrival, end and status."""
    arrivals_s, finished_s, status = (np.array(column) for column in zip(*rows, strict=True))
    return Outcomes(
        workload=Workload(
            name="example",
            arrivals_s=arrivals_s,
            class_of=np.zeros(len(rows), np.int16),
            classes=(SloClass("only", Slo(latency_s=latency_s)),),
            seconds=60.0,
        ),
        policy="pareto live",
        variants=("dense",),
        status=status.astype(np.int8),
        variant=np.where(status == RequestStatus.ANSWERED, 0, -1).astype(np.int16),
        finished_s=finished_s,
        batch_size=np.ones(len(rows), np.int32),
        batches=None,
    )


OUTCOMES = outcomes(
    [
        (10.0, 10.5, RequestStatus.ANSWERED),  # finished before the kill at 12
        (11.5, 13.5, RequestStatus.ANSWERED),  # open at the kill, and late
        (11.9, np.nan, RequestStatus.LOST),  # open, and never answered
        (12.5, 13.0, RequestStatus.ANSWERED),
        (13.9, 14.2, RequestStatus.ANSWERED),  # the last arrival within 2 s
        (14.1, 14.2, RequestStatus.FAILED),  # after the 2 s
    ]
)
KILL = HostKill("dense", at_s=STARTED_S + 12.0, back_after_s=3.0)


def test_a_kill_counts_open_requests_and_arrivals_of_the_next_two_seconds() -> None:
    run = summarize_kills("pareto", OUTCOMES, [KILL], STARTED_S)
    (impact,) = run.kills
    assert impact.at_s == 12.0
    assert (impact.requests, impact.on_time) == (4, 2)
    assert (run.requests, run.on_time, run.lost, run.failed) == (6, 3, 1, 1)


def test_a_kill_after_the_last_arrival_is_omitted() -> None:
    late = HostKill("int8", at_s=STARTED_S + 60.0, back_after_s=None)
    assert len(summarize_kills("pareto", OUTCOMES, [KILL, late], STARTED_S).kills) == 1


def test_the_simulation_has_the_same_host_failures() -> None:
    missing = HostKill("int8", at_s=STARTED_S + 24.0, back_after_s=None)
    run = summarize_kills("pareto", OUTCOMES, [KILL, missing], STARTED_S)
    assert run.host_failures(seconds=60.0) == (
        HostFailure(12.0, "dense", 3.0),
        HostFailure(24.0, "int8", 60.0),
    )


def test_the_tables_show_lost_requests_and_recovery_times() -> None:
    missing = HostKill("int8", at_s=STARTED_S + 24.0, back_after_s=None)
    slow = HostKill("dense", at_s=STARTED_S + 36.0, back_after_s=5.0)
    by_run, by_kill = kill_grids(
        [summarize_kills("pareto", OUTCOMES, [KILL, missing, slow], STARTED_S)]
    )
    run = dict(zip(by_run.columns, by_run.rows[0], strict=True))
    assert run["kills"] == "3"
    assert run["on time, %"] == "50.000"
    assert (run["lost"], run["failed"]) == ("1", "1")
    assert (run["median back after, s"], run["max back after, s"]) == ("4.00", "5.00")
    assert run["not seen back"] == "1"
    # The lost request is open at every kill: 2 of 4 + 1 + 1 requests were on time.
    assert run["on time 2 s after, %"] == "33.333"
    first = dict(zip(by_kill.columns, by_kill.rows[0], strict=True))
    assert (first["variant"], first["at, s"], first["requests"]) == ("dense", "12.0", "4")
    assert first["on time 2 s after, %"] == "50.000"
    assert by_kill.rows[1][-1] == "-"


@pytest.mark.parametrize("kills", [[], [HostKill("dense", STARTED_S + 5.0, None)]])
def test_a_run_without_recovered_hosts_has_no_recovery_times(kills: list[HostKill]) -> None:
    by_run, _ = kill_grids([summarize_kills("pareto", OUTCOMES, kills, STARTED_S)])
    assert by_run.rows[0][-3:] == ("-", "-", str(len(kills)))
