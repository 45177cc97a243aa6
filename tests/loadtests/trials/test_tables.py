from __future__ import annotations

import csv
import io

from loadtests.trials.calibration import calibration
from loadtests.trials.metric import METRICS
from loadtests.trials.shortfalls import shortfalls
from loadtests.trials.tables import by_class, by_condition, by_prediction, render_csv, summary
from tests.loadtests.trials.sample_trial import BATCHES, trial

TRIAL = trial([(0.5, 1, 2), (0.9, 1, 2)])


def test_the_table_of_a_condition_has_means_with_intervals() -> None:
    first, second = by_condition(TRIAL)
    assert (first.title, second.title) == (
        "gamma, load 0.5, CV² 1, deadline 2x",
        "gamma, load 0.9, CV² 1, deadline 2x",
    )
    slack = dict(zip(first.columns, first.rows[0], strict=True))
    assert slack["policy"] == "slack"
    # 0.9 and 0.88: the half width is 12.7062 * 0.01414 / sqrt 2
    assert slack["on time, %"] == "89.000 ±12.706"
    assert slack["accuracy, %"] == "89.00 ±0.00"
    assert slack["regret, %"] == "37.50 ±0.00"
    assert slack["p99, ms"] == "1,475.00 ±0.00"
    assert slack["switches/1,000"] == "750 ±0"
    assert first.note == "16 requests for each policy, 2 seeds, ± 95 % of the mean"


def test_undefined_values_are_dashes_and_error_columns_are_shown_if_not_0() -> None:
    columns, rows = by_condition(TRIAL)[0].columns, by_condition(TRIAL)[0].rows
    none = dict(zip(columns, rows[2], strict=True))
    assert (none["policy"], none["accuracy, %"], none["batch"]) == ("none", "-", "-")
    assert (none["below floor"], none["lost, %"]) == ("0 ±0", "100.000 ±0.000")
    assert "failed, %" not in columns


def test_one_seed_has_no_intervals() -> None:
    (grid,) = by_condition(trial(seeds=1))
    slack = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert slack["on time, %"] == "90.000"
    assert grid.note == "8 requests for each policy"


def test_the_summary_has_extremes_and_counts_conditions_with_dominance() -> None:
    grid = summary(TRIAL)
    rows = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
    assert rows["slack"]["conditions"] == "2"
    assert rows["slack"]["on time, %"] == "89.000"
    assert rows["worse"]["least on time, %"] == "79.000"
    assert rows["slack"]["worst regret, %"] == "37.50"
    assert rows["none"]["accuracy, %"] == rows["none"]["regret, %"] == "-"
    assert [rows[name]["dominates slack"] for name in rows] == ["-", "0 of 2", "0 of 2"]


def test_repeats_of_other_workloads_show_no_dominance() -> None:
    runs = tuple(
        run.model_copy(
            update={"score": run.score.model_copy(update={"workload": "another", "attainment": 1})}
        )
        if run.score.policy == "worse"
        else run
        for run in TRIAL.runs
    )
    others = TRIAL.model_copy(update={"runs": runs})
    assert [row[-1] for row in summary(others).rows] == ["-", "0 of 2", "0 of 2"]
    assert {row[-1] for row in shortfalls(others).rows} == {"-"}


def test_a_regret_that_rounds_to_0_has_no_sign() -> None:
    runs = tuple(
        run.model_copy(update={"score": run.score.model_copy(update={"regret": -1e-9})})
        for run in TRIAL.runs
    )
    grid = summary(TRIAL.model_copy(update={"runs": runs}))
    assert {row[grid.columns.index("worst regret, %")] for row in grid.rows} == {"0.00"}


def test_the_summary_shows_policies_that_dominate_the_evaluated_one() -> None:
    worse_first = sorted(TRIAL.runs, key=lambda run: run.score.policy != "worse")
    grid = summary(TRIAL.model_copy(update={"runs": tuple(worse_first)}))
    rows = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
    assert rows["slack"]["dominates worse"] == "2 of 2"
    assert rows["none"]["dominates worse"] == "0 of 2"


def test_classes_have_a_row_for_each_policy() -> None:
    grid = by_class(TRIAL.scores[TRIAL.runs[0].condition], "classes")
    assert [row[:2] for row in grid.rows[:4]] == [
        ("slack", "strict"), ("slack", "lax"), ("slack", "pinned"), ("worse", "strict"),
    ]  # fmt: skip
    strict = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert strict["on time, %"] == "60.00 ±0.00"
    assert strict["floor, %"] == "90.00"
    assert strict["below floor"] == "2"  # one in each of two seeds


def test_the_summary_of_an_interrupted_trial_covers_its_runs() -> None:
    cut = TRIAL.model_copy(update={"runs": TRIAL.runs[:-2]})  # no second seed of two policies
    rows = summary(cut).rows
    assert [(row[0], row[-1]) for row in rows] == [
        ("slack", "-"), ("worse", "0 of 2"), ("none", "0 of 2"),
    ]  # fmt: skip


def test_the_summary_counts_misses_in_conditions_in_which_the_goal_is_attainable() -> None:
    runs = [
        run.model_copy(update={"attainable": 0.9995 if run.condition.load == 0.5 else 0.9})
        for run in TRIAL.runs
    ]
    runs[0] = runs[0].model_copy(
        update={"score": runs[0].score.model_copy(update={"attainment": 1.0})}
    )
    runs[3] = runs[3].model_copy(
        update={"score": runs[3].score.model_copy(update={"attainment": 0.999})}
    )
    grid = summary(TRIAL.model_copy(update={"runs": tuple(runs)}))
    place = list(grid.columns).index("misses 99.9 %")
    assert [row[place] for row in grid.rows] == ["0 of 1", "1 of 1", "1 of 1"]
    assert grid.rows[0][2:4] == ("94.475", "89.000")  # mean and least of 99.95 and 89
    assert summary(TRIAL).rows[0][place] == "-"


def test_predictions_are_pooled_over_runs() -> None:
    measured = calibration(BATCHES, ("dense", "tiny"), 4.0)
    runs = [
        run.model_copy(update={"calibration": measured}) if run.score.policy == "slack" else run
        for run in TRIAL.runs
    ]
    grid = by_prediction(TRIAL.model_copy(update={"runs": tuple(runs)}))
    assert grid is not None
    assert [row[:3] for row in grid.rows] == [
        ("slack", "all", "20"), ("slack", "dense", "12"), ("slack", "tiny", "8"),
    ]  # fmt: skip
    assert grid.rows[0][3] == "80.00 [58.40, 91.93]"  # Wilson's, of 16 in 20
    assert by_prediction(TRIAL) is None


def test_the_csv_has_a_line_per_run_with_every_metric_unscaled() -> None:
    lines = list(csv.DictReader(io.StringIO(render_csv(TRIAL))))
    assert len(lines) == len(TRIAL.runs) == 12
    assert set(METRICS) <= set(lines[0])
    first = lines[0]
    assert (first["kind"], first["load"], first["seed"]) == ("gamma", "0.5", "0")
    assert float(first["attainment"]) == 0.9
    assert float(first["p99_s"]) == 1.475
    assert lines[2]["policy"] == "none"
    assert lines[2]["mean_accuracy"] == ""
