from __future__ import annotations

import numpy as np
import pytest

from loadtests.live.fault_injection import Kill
from loadtests.live.kill_impact import survival_grids, survived
from loadtests.simulator.simulate import HostFailure
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo

STARTED_S = 1000.0


def outcomes(rows: list[tuple[float, float, RequestStatus]], latency_s: float = 1.0) -> Outcomes:
    """Requests that arrived, finished, and ended so, in a workload of 60 s."""
    arrivals_s, finished_s, status = (np.array(column) for column in zip(*rows, strict=True))
    return Outcomes(
        workload=Workload(
            name="made",
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


MADE = outcomes(
    [
        (10.0, 10.5, RequestStatus.ANSWERED),  # over before the kill at 12
        (11.5, 13.5, RequestStatus.ANSWERED),  # in hand at the kill, and late
        (11.9, np.nan, RequestStatus.LOST),  # in hand, and never heard of
        (12.5, 13.0, RequestStatus.ANSWERED),
        (13.9, 14.2, RequestStatus.ANSWERED),  # the last that came within 2 s
        (14.1, 14.2, RequestStatus.FAILED),  # after them
    ]
)
KILL = Kill("dense", at_s=STARTED_S + 12.0, back_after_s=3.0)


def test_a_kill_counts_requests_in_hand_and_those_of_the_next_two_seconds() -> None:
    run = survived("pareto", MADE, [KILL], STARTED_S)
    (after,) = run.kills
    assert after.at_s == 12.0
    assert (after.requests, after.on_time) == (4, 2)
    assert (run.requests, run.on_time, run.lost, run.failed) == (6, 3, 1, 1)


def test_a_kill_after_the_last_arrivals_is_left_out() -> None:
    late = Kill("int8", at_s=STARTED_S + 60.0, back_after_s=None)
    assert len(survived("pareto", MADE, [KILL, late], STARTED_S).kills) == 1


def test_the_simulation_loses_the_same_hosts_for_as_long() -> None:
    gone = Kill("int8", at_s=STARTED_S + 24.0, back_after_s=None)
    run = survived("pareto", MADE, [KILL, gone], STARTED_S)
    assert run.deaths(seconds=60.0) == (
        HostFailure(12.0, "dense", 3.0),
        HostFailure(24.0, "int8", 60.0),
    )


def test_the_tables_tell_what_was_lost_and_when_hosts_were_back() -> None:
    gone = Kill("int8", at_s=STARTED_S + 24.0, back_after_s=None)
    slow = Kill("dense", at_s=STARTED_S + 36.0, back_after_s=5.0)
    by_run, by_kill = survival_grids([survived("pareto", MADE, [KILL, gone, slow], STARTED_S)])
    run = dict(zip(by_run.columns, by_run.rows[0], strict=True))
    assert run["kills"] == "3"
    assert run["on time, %"] == "50.000"
    assert (run["lost"], run["failed"]) == ("1", "1")
    assert (run["back after, s"], run["at most, s"], run["not seen back"]) == ("4.00", "5.00", "1")
    # The lost one is open at every kill: of 4 + 1 + 1 requests 2 were on time.
    assert run["on time 2 s after, %"] == "33.333"
    first = dict(zip(by_kill.columns, by_kill.rows[0], strict=True))
    assert (first["variant"], first["at, s"], first["requests"]) == ("dense", "12.0", "4")
    assert first["on time 2 s after, %"] == "50.000"
    assert by_kill.rows[1][-1] == "-"


@pytest.mark.parametrize("kills", [[], [Kill("dense", STARTED_S + 5.0, None)]])
def test_a_run_of_which_no_host_was_seen_back_has_no_times(kills: list[Kill]) -> None:
    by_run, _ = survival_grids([survived("pareto", MADE, kills, STARTED_S)])
    assert by_run.rows[0][-3:] == ("-", "-", str(len(kills)))
