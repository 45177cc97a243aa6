"""The grid of conditions: its cases, parallel execution, resuming, and the command."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.benchmarks.routing import main
from loadtests.simulator.parallel import THREAD_VARIABLES, RunStore, SimulationJob, run_jobs
from loadtests.simulator.service import SimulatedService
from loadtests.trials.conditions import FULL, QUICK, cases
from loadtests.trials.goodput import goodput_tables
from loadtests.trials.runs import Condition, Run, Trial
from loadtests.trials.scores import score
from loadtests.trials.shortfalls import shortfalls
from tests.loadtests.catalogs import write_catalog
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES
from tests.serving.builders import PROFILES
from variants.catalog.record import read_record

SERVICE = SimulatedService(PROFILES, cores=1)
POLICIES = ("pareto", "fixed")


def jobs(requests: int = 100) -> list[SimulationJob]:
    first = cases("fastest", QUICK, PROFILES, requests=requests, cores=1)[:2]
    return [SimulationJob("fastest", case, seed) for case in first for seed in (0, 1)]


def test_the_grid_has_every_combination_once_with_the_deadlines_of_its_table() -> None:
    fastest = cases("fastest", FULL, PROFILES, requests=1000, cores=1)
    assert len({case.condition for case in fastest}) == len(fastest) == 4 * 6 * 5
    dense = cases("dense", FULL, PROFILES, requests=1000, cores=1)
    assert len(dense) == 4 * 6 * 3
    dense_per_s = 64 / 0.008
    for unit_s, table in ((0.0005, fastest), (0.001, dense)):
        for case in table:
            (slo_class,) = case.demand.classes
            condition = case.condition
            assert condition.slo_factor is not None
            assert condition.load is not None
            assert slo_class.slo.latency_s == pytest.approx(condition.slo_factor * unit_s)
            assert case.demand.rate_per_s == pytest.approx(condition.load * dense_per_s)
            assert case.demand.rate_per_s * case.demand.seconds == pytest.approx(1000)


def test_goodput_has_one_deadline_at_every_load() -> None:
    goodput = cases("goodput", FULL, PROFILES, requests=1000, cores=1)
    assert {case.demand.classes[0].slo.latency_s for case in goodput} == {0.002}
    assert {case.condition.load for case in goodput} >= {0.4, 0.95, 1.3}
    assert all(case.condition.slo_factor is None for case in goodput)


def test_processes_do_not_change_runs_and_stored_jobs_are_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    progress: list[tuple[int, int]] = []
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    in_one = run_jobs(jobs(), SERVICE, POLICIES, RunStore(None, ""), processes=1)
    in_two = run_jobs(
        jobs(), SERVICE, POLICIES, RunStore(path, "a"), processes=2,
        on_done=lambda *done: progress.append(done),
    )  # fmt: skip
    assert in_two == in_one
    assert [run.seed for run in in_two["fastest"]] == [0, 0, 1, 1] * 2
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert before == {name: os.environ.get(name) for name in THREAD_VARIABLES}

    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:-9]]))  # interrupted while writing
    progress.clear()
    resumed = run_jobs(
        jobs(), SERVICE, POLICIES, RunStore(path, "a"), processes=1,
        on_done=lambda *done: progress.append(done),
    )  # fmt: skip
    assert resumed == in_one
    assert progress == [(1, 2), (2, 2)]
    assert sorted(path.read_text().splitlines()) == sorted(lines)


def test_runs_of_another_fingerprint_are_discarded(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    run_jobs(jobs()[:1], SERVICE, POLICIES, RunStore(path, "a"), processes=1)
    assert len(RunStore(path, "a").runs) == 1
    assert RunStore(path, "b").runs == {}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"fingerprint": "b"}]


def runs(
    attainments: Mapping[str, tuple[float, float]],
    condition: Condition,
    attainable: float | None = 1.0,
    accuracy: float = 0.9,
) -> list[Run]:
    """Return runs of two seeds per policy with these attainments; regret is 1 minus attainment."""
    template = score(OUTCOMES, ACCURACY)
    return [
        Run(
            condition=condition,
            seed=seed,
            attainable=attainable,
            score=template.model_copy(
                update={
                    "policy": policy,
                    "attainment": share,
                    "mean_accuracy": accuracy,
                    "regret": 1 - share,
                }
            ),
        )
        for seed in (0, 1)
        for policy, share in ((name, shares[seed]) for name, shares in attainments.items())
    ]


def gamma(load: float, cv2: float = 1.0) -> Condition:
    return Condition(kind="gamma", load=load, cv2=cv2)


def test_only_dense_serves_the_baselines_of_goodput() -> None:
    (case, *_) = cases("goodput", QUICK, PROFILES, requests=200, cores=1)
    job = SimulationJob("goodput", case, 0, has_baselines=True)
    results = run_jobs([job], SERVICE, ("fastest",), RunStore(None, ""), processes=1)["goodput"]
    assert [run.score.policy for run in results] == ["fastest", "dense alone", "dense fifo"]
    assert [set(run.score.variant_shares) for run in results] == [{"int8"}, {"dense"}, {"dense"}]
    assert len({run.score.requests for run in results}) == 1
    assert [run.attainable is None for run in results] == [False, True, True]


def test_goodput_is_relative_to_the_capacity_of_dense_and_to_the_baselines() -> None:
    half = {"pareto": (1.0, 0.96), "dense alone": (0.5, 0.48), "dense fifo": (0.0, 0.0)}
    full = {"pareto": (0.9, 0.9), "dense alone": (0.1, 0.1), "dense fifo": (0.3, 0.3)}
    trial = Trial(
        title="Goodput",
        runs=(*runs(full, gamma(1.2)), *runs(half, gamma(0.5)), *runs(half, gamma(0.5, 4.0))),
    )
    grids = goodput_tables(trial)
    assert len(grids) == 6, "three tables for each CV²"
    assert grids[0].columns == ("policy", "0.5", "1.2")
    assert grids[0].rows == [
        ("pareto", "0.490", "1.080"),
        ("dense alone", "0.245", "0.120"),
        ("dense fifo", "0.000", "0.360"),
        ("the bound", "0.500", "1.200"),
    ]
    assert [row[1:] for row in grids[1].rows] == [
        ("2.00", "9.00"),
        ("1.00", "1.00"),
        ("0.00", "3.00"),
    ]
    assert [row[1:] for row in grids[2].rows] == [("∞", "3.00"), ("∞", "0.33"), ("-", "1.00")]
    assert "over that of dense fifo" in grids[2].title


def test_shortfalls_lists_only_the_conditions_where_pareto_falls_short() -> None:
    fine = runs({"pareto": (1.0, 0.999), "fixed": (0.5, 0.4)}, gamma(0.3))
    late = runs({"pareto": (0.998, 0.998), "fixed": (0.5, 0.4)}, gamma(0.5))
    limited = runs({"pareto": (0.98, 0.98), "fixed": (0.5, 0.4)}, gamma(0.7), attainable=0.98)
    beaten = runs({"pareto": (0.98, 0.97), "fixed": (0.99, 0.98)}, gamma(0.9), attainable=0.99)
    poor = runs({"pareto": (0.96, 0.96), "fixed": (0.5, 0.4)}, gamma(1.1), attainable=0.97)
    trial = Trial(title="Example", runs=(*fine, *late, *limited, *beaten, *poor))
    grid = shortfalls(trial)
    assert grid.rows == [
        ("gamma, load 0.5, CV² 1", "99.800", "100.000", "0.20", "pareto 0.20", "-"),
        ("gamma, load 0.9, CV² 1", "97.500", "99.000", "2.50", "fixed 1.50", "fixed"),
        ("gamma, load 1.1, CV² 1", "96.000", "97.000", "4.00", "pareto 4.00", "-"),
    ]
    assert grid.note.startswith("3 of 5 conditions")


def test_the_command_writes_a_folder_for_each_table_and_prints_its_grids(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog")
    out = tmp_path / "out"
    arguments = [
        "--catalog", str(catalog), "--quick", "--requests", "20", "--slo-of", "dense",
        "--policy", "pareto,fixed", "--seeds", "2", "--processes", "1", "--markdown",
        "--out", str(out),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"20 of 20 done, 0\.0 min left", result.stderr)
    assert "| dominates pareto |" in result.stdout
    assert "conditions in which pareto misses a goal" in result.stdout
    assert "over that of dense alone, by load" in result.stdout
    assert result.stdout.rstrip() == (out / "routing.md").read_text().rstrip()
    dense = read_record(Trial, out / "dense" / "scores.json")
    assert len(dense.runs) == len(QUICK.cv2s) * len(QUICK.loads) * 1 * 2 * 2
    assert {run.condition.slo_factor for run in dense.runs} == {2}
    goodput = read_record(Trial, out / "goodput" / "scores.json")
    assert len(goodput.scores) == len(QUICK.goodput_loads)
    assert (out / "goodput" / "goodput-by-load.png").stat().st_size > 1000

    again = CliRunner().invoke(main, arguments)
    assert again.stdout == result.stdout
    assert "done," not in again.stderr, "all runs were stored"


def test_an_invalid_name_is_an_error(tmp_path: Path) -> None:
    catalog = str(write_catalog(tmp_path / "catalog"))
    for arguments, message in (
        (("--policy", "none"), "no policy 'none'"),
        (("--variants", "int9"), "no such variant"),
        (("--variants", "int8"), "no variant 'dense'"),
    ):
        result = CliRunner().invoke(main, ["--catalog", catalog, *arguments])
        assert isinstance(result.exception, ValueError)
        assert message in str(result.exception)
