from __future__ import annotations

import pytest
from click.testing import CliRunner

from loadtests.steady.disturb import main
from loadtests.steady.recovery import Recovery
from loadtests.steady.recovery_run import DisturbedRun, DisturbedRuns, SteadyLoad
from loadtests.steady.recovery_tables import recovery_grids


def runs(*recoveries: Recovery) -> DisturbedRuns:
    return DisturbedRuns(
        deadline_ms=50.0,
        observed_s=6.0,
        note="3 rounds.",
        runs=tuple(
            DisturbedRun(
                policy="pareto",
                round=number,
                disturbance="host-killed",
                load=SteadyLoad.CLOSED,
                recovery=recovery,
            )
            for number, recovery in enumerate(recoveries)
        ),
    )


def test_a_row_has_the_median_time_and_the_lost_answers() -> None:
    times_s = (0.4, None, 0.2)
    recoveries = [Recovery(before_per_s=1000.0, lost=500.0, after_s=time_s) for time_s in times_s]
    (grid,) = recovery_grids(runs(*recoveries))
    assert grid.title == "pareto, deadline 50 ms"
    assert grid.rows == [
        ("a host killed", "closed loop", "1,000 ±0", "500 ±0", "0.50 ±0.00", "0.4 [0.2, > 5]")
    ]
    assert grid.note.endswith("3 rounds.")


def test_a_single_round_has_no_interval() -> None:
    (grid,) = recovery_grids(runs(Recovery(before_per_s=0.0, lost=0.0, after_s=0.0)))
    assert grid.rows[0][2:] == ("0", "0", "-", "0.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://x", "--policy", "pareto,fifo"], "--url requires --policy"),
        (["--only", "flood"], "no disturbance 'flood'; there are nothing, host-stopped"),
        (["--url", "http://x", "--only", "host-killed"], "host-killed requires --host-pid"),
        (["--observe", "0.5"], "--observe must be at least 1 s"),
        (["--load", "half"], "'half' is not one of 'closed', 'open'"),
    ],
)
def test_bad_options_are_rejected(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
