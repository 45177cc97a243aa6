from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.trials.files import read_outcomes, write_outcomes, write_trial
from loadtests.trials.outcomes import Outcomes
from loadtests.trials.runs import Trial
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES, trial, unanswered_outcomes
from variants.catalog.record import read_record


def assert_same(first: Outcomes, second: Outcomes) -> None:
    for a, b in (
        (first, second),
        (first.workload, second.workload),
        (first.batches, second.batches),
    ):
        if a is None or b is None:
            assert a is b
            continue
        for field in fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)
            elif field.name not in ("workload", "batches"):
                assert left == right


@pytest.mark.parametrize(
    "outcomes",
    [
        pytest.param(OUTCOMES, id="with batches"),
        pytest.param(replace(OUTCOMES, batches=None), id="without batches"),
        pytest.param(unanswered_outcomes(), id="no answers"),
    ],
)
def test_outcomes_survive_a_round_trip_through_a_file(outcomes: Outcomes, tmp_path: Path) -> None:
    write_outcomes(outcomes, tmp_path / "trial.npz")
    restored = read_outcomes(tmp_path / "trial.npz")
    assert_same(outcomes, restored)
    assert restored.workload.classes[1].slo.latency_s == math.inf
    assert [path.name for path in tmp_path.iterdir()] == ["trial.npz"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "trial.npz").mkdir()
    (tmp_path / "trial.npz" / "kept").touch()
    with pytest.raises(OSError, match="irectory"):
        write_outcomes(OUTCOMES, tmp_path / "trial.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["trial.npz"]
    assert (tmp_path / "trial.npz" / "kept").exists()


def test_an_invalid_file_is_rejected_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "trial.npz"
    for contents in (b"", b"nonsense", b"PK\x03\x04 cut short"):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"trial\.npz: not an `.npz` file with outcomes"):
            read_outcomes(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(ValueError, match=r"trial\.npz: not an `.npz` file with outcomes"):
        read_outcomes(path)
    np.savez(path, second=np.zeros(3))
    with pytest.raises(ValueError, match=r"trial\.npz: not an `.npz` file with outcomes"):
        read_outcomes(path)
    np.savez(path, header=np.frombuffer(b'{"format": 99}', np.uint8))
    with pytest.raises(ValueError, match="format must be 1, got 99"):
        read_outcomes(path)


def test_a_trial_with_many_conditions_is_written_with_all_plots(tmp_path: Path) -> None:
    sample = trial([(0.5, 1, 1), (0.9, 1, 1), (0.5, 8, 1), (0.5, 1, 3.5)])
    written = write_trial(tmp_path / "new", sample, [OUTCOMES, unanswered_outcomes()], ACCURACY)
    assert sorted(path.name for path in written) == sorted(
        path.name for path in (tmp_path / "new").iterdir()
    )
    assert {path.name for path in written} == {
        "scores.json", "table.md", "table.csv",
        "tradeoff-slo-1x.png", "tradeoff-slo-3.5x.png",
        "goodput-by-load.png", "attainment-by-load.png",
        "attainment-by-slo.png", "accuracy-by-slo.png", "attainment-by-cv2.png",
        "regret.png", "timelines.png", "dynamics-slack.png", "dynamics-none.png",
        "calibration-slack.png",
    }  # fmt: skip
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert read_record(Trial, tmp_path / "new" / "scores.json") == sample
    text = (tmp_path / "new" / "table.md").read_text()
    assert text.startswith("**A trial**\n")
    assert "**gamma, load 0.5, CV² 1, deadline 3.5x, by class**" in text


def test_a_single_run_is_written_without_sweeps(tmp_path: Path) -> None:
    written = write_trial(tmp_path, trial(seeds=1))
    assert {path.name for path in written} == {
        "scores.json", "table.md", "table.csv", "tradeoff.png", "regret.png",
    }  # fmt: skip


def test_each_kind_of_arrivals_has_its_own_plots(tmp_path: Path) -> None:
    sample = trial(seeds=1)
    second = [
        run.model_copy(update={"condition": run.condition.model_copy(update={"kind": "a/trace"})})
        for run in sample.runs
    ]
    both = sample.model_copy(update={"runs": (*sample.runs, *second)})
    names = {path.name for path in write_trial(tmp_path, both)}
    assert {"tradeoff-gamma.png", "tradeoff-a-trace.png"} <= names


def test_a_trial_without_runs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no runs"):
        write_trial(tmp_path, Trial(title="none", runs=()))
