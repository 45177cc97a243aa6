from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from loadtests.live.policy_run import PolicyRun, calibration_demand, invalid_reason
from loadtests.live.tables import live_grid, live_trial, run_differences_grid
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


def run(policy: str, seed: int, template: Score, **fields: Any) -> Run:
    named = template.model_copy(update={"policy": policy, **fields})
    return Run(condition=Condition(kind="poisson"), seed=seed, score=named)


def policy_run(
    policy: str,
    seed: int,
    attainment: float,
    simulated: float = 0.9,
    client: ClientStatistics = CLIENT,
) -> PolicyRun:
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
    simulated_run = run(f"{policy} simulated", seed, SCORE, attainment=simulated)
    return PolicyRun(
        policy=policy,
        seed=seed,
        live=live,
        timings=Timings(variants={}),
        simulated=Comparison((simulated_run,), (OUTCOMES,), 1.0),
        kill_summary=None,
        invalid_reason=invalid_reason(live, 0.002),
    )


LATE = replace(CLIENT, delay_p99_s=0.007)
RUNS = (
    policy_run("pareto", 0, 0.8, simulated=0.9),
    policy_run("fixed", 0, 0.5),
    policy_run("pareto", 1, 0.7, simulated=0.88),
    policy_run("fixed", 1, 0.6, client=LATE),
)


def rows(grid: Any) -> Mapping[str, Mapping[str, str]]:
    return {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}


def test_a_policy_is_a_row_of_means_over_its_runs() -> None:
    table = rows(live_grid(RUNS, "Live"))
    assert table["pareto"]["runs"] == "2"
    # 0.8 and 0.7: half a width of 12.7062 * 0.07071 / sqrt 2
    assert table["pareto"]["on time, %"] == "75.000 ±63.531"
    assert table["pareto"]["client delay p99, ms"] == "0.50"
    assert table["pareto"]["answered by, %"] == "dense 67, tiny 33"
    assert (table["fixed"]["shed, %"], table["fixed"]["expired, %"]) == ("12.50", "12.50")


def test_a_run_with_a_late_client_has_its_own_row_and_a_reason() -> None:
    grid = live_grid(RUNS, "Live", "here")
    table = rows(grid)
    assert table["fixed"]["on time, %"] == "50.000"
    assert table["fixed, INVALID"]["on time, %"] == "60.000"
    assert table["fixed, INVALID"]["client delay p99, ms"] == "7.00"
    assert grid.note.startswith(
        "here. invalid: the client sent 1 % of the requests more than 7.00 ms late"
    )


def test_differences_are_paired_by_seed() -> None:
    table = rows(run_differences_grid(RUNS))
    # -0.1 and -0.18: half a width of 12.7062 * 0.05657 / sqrt 2
    assert table["pareto: live minus simulated"]["on time, %"] == "-14.000 ±50.825"
    assert table["pareto: simulated"]["on time, %"] == "89.000 ±12.706"
    assert table["fixed: live minus simulated"]["on time, %"] == "-40.000"
    assert table["pareto: live minus simulated"]["p99, ms"] == "+0.00 ±0.00"


def test_the_trial_includes_invalid_runs() -> None:
    trial = live_trial(RUNS, "Live", "")
    assert trial.policies == (
        "pareto live", "fixed live", "fixed, INVALID live", "pareto simulated", "fixed simulated",
    )  # fmt: skip
    assert len(trial.runs) == 8


def test_calibration_sends_every_variant_enough_batches_of_every_size() -> None:
    demand = calibration_demand(PROFILES, max_batch=16)
    sizes = (1, 4, 16)
    assert [(each.slo.variant, each.size) for each in demand.classes] == [
        (name, size) for name in PROFILES for size in sizes
    ]
    assert demand.rate_per_s * demand.seconds == pytest.approx(
        2 * MIN_BATCHES * len(demand.classes)
    )
    mean_s = sum(PROFILES[n].latencies[s].p50_s for n in PROFILES for s in sizes) / 9
    assert demand.rate_per_s * mean_s == pytest.approx(0.2)


def test_the_calibration_rate_is_limited_for_fast_variants() -> None:
    fast = {
        name: replace(profile, latencies={1: profile.latencies[1]._replace(p50_s=1e-5)})
        for name, profile in PROFILES.items()
    }
    assert calibration_demand(fast, max_batch=64).rate_per_s == 150
