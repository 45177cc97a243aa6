"""The grid of conditions: what is in it, in how many processes, and where it goes on."""

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
from loadtests.simulator.simulate import SimulatedService
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
    some = cases("fastest", QUICK, PROFILES, requests=requests, cores=1)[:2]
    return [SimulationJob("fastest", case, seed) for case in some for seed in (0, 1)]


def test_the_grid_has_every_combination_once_and_deadlines_by_their_table() -> None:
    fastest = cases("fastest", FULL, PROFILES, requests=1000, cores=1)
    assert len({case.condition for case in fastest}) == len(fastest) == 4 * 6 * 5
    dense = cases("dense", FULL, PROFILES, requests=1000, cores=1)
    assert len(dense) == 4 * 6 * 3
    dense_per_s = 64 / 0.008
    for unit_s, of in ((0.0005, fastest), (0.001, dense)):
        for case in of:
            (only,) = case.demand.classes
            condition = case.condition
            assert condition.slo_factor is not None
            assert condition.load is not None
            assert only.slo.latency_s == pytest.approx(condition.slo_factor * unit_s)
            assert case.demand.rate_per_s == pytest.approx(condition.load * dense_per_s)
            assert case.demand.rate_per_s * case.demand.seconds == pytest.approx(1000)


def test_goodput_has_one_deadline_at_every_load() -> None:
    found = cases("goodput", FULL, PROFILES, requests=1000, cores=1)
    assert {case.demand.classes[0].slo.latency_s for case in found} == {0.002}
    assert {case.condition.load for case in found} >= {0.4, 0.95, 1.3}
    assert all(case.condition.slo_factor is None for case in found)


def test_processes_change_nothing_and_what_is_kept_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    told: list[tuple[int, int]] = []
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    alone = run_jobs(jobs(), SERVICE, POLICIES, RunStore(None, ""), processes=1)
    both = run_jobs(
        jobs(), SERVICE, POLICIES, RunStore(path, "a"), processes=2,
        on_done=lambda *done: told.append(done),
    )  # fmt: skip
    assert both == alone
    assert [run.seed for run in both["fastest"]] == [0, 0, 1, 1] * 2
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert before == {name: os.environ.get(name) for name in THREAD_VARIABLES}

    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:-9]]))  # as it is cut off while it is written
    told.clear()
    again = run_jobs(
        jobs(), SERVICE, POLICIES, RunStore(path, "a"), processes=1,
        on_done=lambda *done: told.append(done),
    )  # fmt: skip
    assert again == alone
    assert told == [(1, 2), (2, 2)]
    assert sorted(path.read_text().splitlines()) == sorted(lines)


def test_what_other_code_or_another_question_gave_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    run_jobs(jobs()[:1], SERVICE, POLICIES, RunStore(path, "a"), processes=1)
    assert len(RunStore(path, "a").runs) == 1
    assert RunStore(path, "b").runs == {}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"fingerprint": "b"}]


def runs(
    attained: Mapping[str, tuple[float, float]],
    condition: Condition,
    attainable: float | None = 1.0,
    accuracy: float = 0.9,
) -> list[Run]:
    """Return runs of two seeds by policy: their attainment, and a regret of what it lacks."""
    like = score(OUTCOMES, ACCURACY)
    return [
        Run(
            condition=condition,
            seed=seed,
            attainable=attainable,
            score=like.model_copy(
                update={
                    "policy": policy,
                    "attainment": share,
                    "mean_accuracy": accuracy,
                    "regret": 1 - share,
                }
            ),
        )
        for seed in (0, 1)
        for policy, share in ((name, shares[seed]) for name, shares in attained.items())
    ]


def gamma(load: float, cv2: float = 1.0) -> Condition:
    return Condition(kind="gamma", load=load, cv2=cv2)


def test_dense_alone_is_served_by_dense_alone() -> None:
    (case, *_) = cases("goodput", QUICK, PROFILES, requests=200, cores=1)
    job = SimulationJob("goodput", case, 0, has_baselines=True)
    found = run_jobs([job], SERVICE, ("fastest",), RunStore(None, ""), processes=1)["goodput"]
    assert [run.score.policy for run in found] == ["fastest", "dense alone", "dense fifo"]
    assert [set(run.score.variant_shares) for run in found] == [{"int8"}, {"dense"}, {"dense"}]
    assert len({run.score.requests for run in found}) == 1
    assert [run.attainable is None for run in found] == [False, True, True]


def test_goodput_is_told_in_capacities_of_dense_and_over_that_of_the_baselines() -> None:
    half = {"pareto": (1.0, 0.96), "dense alone": (0.5, 0.48), "dense fifo": (0.0, 0.0)}
    full = {"pareto": (0.9, 0.9), "dense alone": (0.1, 0.1), "dense fifo": (0.3, 0.3)}
    made = Trial(
        title="Goodput",
        runs=(*runs(full, gamma(1.2)), *runs(half, gamma(0.5)), *runs(half, gamma(0.5, 4.0))),
    )
    grids = goodput_tables(made)
    assert len(grids) == 6, "three for each CV²"
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


def test_where_ours_falls_short_is_told_and_where_it_does_not_is_not() -> None:
    fine = runs({"pareto": (1.0, 0.999), "fixed": (0.5, 0.4)}, gamma(0.3))
    late = runs({"pareto": (0.998, 0.998), "fixed": (0.5, 0.4)}, gamma(0.5))
    hopeless = runs({"pareto": (0.98, 0.98), "fixed": (0.5, 0.4)}, gamma(0.7), attainable=0.98)
    beaten = runs({"pareto": (0.98, 0.97), "fixed": (0.99, 0.98)}, gamma(0.9), attainable=0.99)
    poor = runs({"pareto": (0.96, 0.96), "fixed": (0.5, 0.4)}, gamma(1.1), attainable=0.97)
    made = Trial(title="Made up", runs=(*fine, *late, *hopeless, *beaten, *poor))
    grid = shortfalls(made)
    assert grid.rows == [
        ("gamma, load 0.5, CV² 1", "99.800", "100.000", "0.20", "pareto 0.20", "-"),
        ("gamma, load 0.9, CV² 1", "97.500", "99.000", "2.50", "fixed 1.50", "fixed"),
        ("gamma, load 1.1, CV² 1", "96.000", "97.000", "4.00", "pareto 4.00", "-"),
    ]
    assert grid.note.startswith("3 of 5 conditions")


def test_the_command_writes_a_folder_for_each_table_and_prints_what_counts(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog")
    out = tmp_path / "out"
    arguments = [
        "--catalog", str(catalog), "--quick", "--requests", "60", "--slo-of", "dense",
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
    assert "done," not in again.stderr, "it was all kept"


def test_a_slip_is_told(tmp_path: Path) -> None:
    catalog = str(write_catalog(tmp_path / "catalog"))
    for arguments, message in (
        (("--policy", "none"), "no policy 'none'"),
        (("--variants", "int9"), "no such variant"),
        (("--variants", "int8"), "no variant 'dense'"),
    ):
        result = CliRunner().invoke(main, ["--catalog", catalog, *arguments])
        assert isinstance(result.exception, ValueError)
        assert message in str(result.exception)
