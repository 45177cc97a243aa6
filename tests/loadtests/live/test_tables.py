from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from loadtests.live.tables import gaps_grid, live_grid, live_trial
from loadtests.live.turn import Turn, calibration, why_invalid
from loadtests.replay.client_statistics import ClientStatistics
from loadtests.replay.live_run import LiveRun
from loadtests.replay.timings import MIN_BATCHES, Timings
from loadtests.simulator.compare import Comparison
from loadtests.trials.runs import Condition, Run
from loadtests.trials.scores import Score, score
from tests.loadtests.simulator.services import PROFILES
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES

CLIENT = ClientStatistics(
    delay_p50_s=0.0001,
    delay_p99_s=0.0005,
    delay_max_s=0.001,
    waited=0,
    waited_max_s=0.0,
    connections=1,
    cpu_s=0.1,
    is_real_time=True,
)
SCORE = score(OUTCOMES, ACCURACY)


def run(policy: str, seed: int, found: Score, **fields: Any) -> Run:
    named = found.model_copy(update={"policy": policy, **fields})
    return Run(condition=Condition(kind="poisson"), seed=seed, score=named)


def turn(
    policy: str,
    seed: int,
    attainment: float,
    simulated: float = 0.9,
    client: ClientStatistics = CLIENT,
) -> Turn:
    live = LiveRun(
        run=run(f"{policy} live", seed, SCORE, attainment=attainment),
        outcomes=OUTCOMES,
        accuracy=ACCURACY,
        client=client,
        timings=Timings(variants={}),
        unserved=0,
        first_failure="",
        started_s=0.0,
    )
    alike = run(f"{policy} simulated", seed, SCORE, attainment=simulated)
    return Turn(
        policy=policy,
        seed=seed,
        live=live,
        timings=Timings(variants={}),
        simulated=Comparison((alike,), (OUTCOMES,), 1.0),
        survived=None,
        invalid=why_invalid(live, 0.002),
    )


LATE = replace(CLIENT, delay_p99_s=0.007)
TURNS = (
    turn("pareto", 0, 0.8, simulated=0.9),
    turn("fixed", 0, 0.5),
    turn("pareto", 1, 0.7, simulated=0.88),
    turn("fixed", 1, 0.6, client=LATE),
)


def rows(grid: Any) -> Mapping[str, Mapping[str, str]]:
    return {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}


def test_a_policy_is_a_row_of_means_over_its_runs() -> None:
    found = rows(live_grid(TURNS, "Live"))
    assert found["pareto"]["runs"] == "2"
    # 0.8 and 0.7: half a width of 12.7062 * 0.07071 / sqrt 2
    assert found["pareto"]["on time, %"] == "75.000 ±63.531"
    assert found["pareto"]["client p99 late, ms"] == "0.50"
    assert found["pareto"]["answered by, %"] == "dense 67, tiny 33"
    assert (found["fixed"]["shed, %"], found["fixed"]["expired, %"]) == ("12.50", "12.50")


def test_a_run_whose_client_was_late_is_shown_apart_and_says_why() -> None:
    grid = live_grid(TURNS, "Live", "here")
    found = rows(grid)
    assert found["fixed"]["on time, %"] == "50.000"
    assert found["fixed, INVALID"]["on time, %"] == "60.000"
    assert found["fixed, INVALID"]["client p99 late, ms"] == "7.00"
    assert grid.note.startswith(
        "here. invalid: the client sent 1 % of the requests more than 7.00 ms late"
    )


def test_the_gap_is_taken_seed_by_seed() -> None:
    found = rows(gaps_grid(TURNS))
    # -0.1 and -0.18: half a width of 12.7062 * 0.05657 / sqrt 2
    assert found["pareto: live minus simulated"]["on time, %"] == "-14.000 ±50.825"
    assert found["pareto: simulated"]["on time, %"] == "89.000 ±12.706"
    assert found["fixed: live minus simulated"]["on time, %"] == "-40.000"
    assert found["pareto: live minus simulated"]["p99, ms"] == "+0.00 ±0.00"


def test_files_hold_every_run_also_one_that_does_not_count() -> None:
    trial = live_trial(TURNS, "Live", "")
    assert trial.policies == (
        "pareto live", "fixed live", "fixed, INVALID live", "pareto simulated", "fixed simulated",
    )  # fmt: skip
    assert len(trial.runs) == 8


def test_calibration_asks_every_variant_for_every_size_often_enough() -> None:
    demand = calibration(PROFILES, max_batch=16)
    sizes = (1, 4, 16)
    assert [(each.slo.variant, each.size) for each in demand.classes] == [
        (name, size) for name in PROFILES for size in sizes
    ]
    assert demand.rate_per_s * demand.seconds == pytest.approx(
        2 * MIN_BATCHES * len(demand.classes)
    )
    mean_s = sum(PROFILES[n].latencies[s].p50_s for n in PROFILES for s in sizes) / 9
    assert demand.rate_per_s * mean_s == pytest.approx(0.2)


def test_quick_variants_are_not_asked_faster_than_the_client_is_sure_to_send() -> None:
    fast = {
        name: replace(profile, latencies={1: profile.latencies[1]._replace(p50_s=1e-5)})
        for name, profile in PROFILES.items()
    }
    assert calibration(fast, max_batch=64).rate_per_s == 150
