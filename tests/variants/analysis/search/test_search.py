from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime
from rich.console import Console
from rich.progress import Progress

from paretoserve.main import cli
from tests.variants import tiny
from tests.variants.analysis.search.hunt import GOAL, SPACE, hunt, write_project
from tests.waiting import wait_until
from variants.analysis.search.bench import Bench, divide, try_recipe
from variants.analysis.search.goal import Goal
from variants.analysis.search.ledger import CandidateTrial, Ledger, Measured, key_of
from variants.analysis.search.report import recipes_yaml, sentences, table, write_recipes
from variants.analysis.search.result import SearchResult
from variants.catalog.recipe import Recipe, Step
from variants.catalog.record import read_record
from variants.compression.techniques import resolve_all
from variants.model.dataset import Split

NAMES = {"pruned-0.1", "pruned-0.4", "pruned-0.7"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("hunted"), "hunted_model")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def found(project: Path, state: Path) -> SearchResult:
    return hunt(project, state)


def settled(found: SearchResult) -> dict[str, Any]:
    """What of a search must come out the same each time: all but latency and who did the work."""
    record = found.model_dump(mode="json", exclude={"tried", "dense_latency_s"})
    for row in (*record["rows"], *filter(None, [record["nearest"]])):
        del row["latency_s"], row["speedup"]
    return record


def records(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.glob("*.json")}


def test_the_strongest_that_holds_is_found_and_confirmed(found: SearchResult, state: Path) -> None:
    assert found.is_finished
    assert found.chosen is not None
    chosen = next(row for row in found.rows if row.name == found.chosen)
    assert chosen.verdict == "confirmed"
    assert chosen.confirmation is not None
    assert chosen.confirmation.low >= -0.2
    assert chosen.parameters < found.dense_parameters
    assert chosen.parameters == min(r.parameters for r in found.rows if r.verdict == "confirmed")
    assert {row.name for row in found.rows} <= NAMES
    assert (found.selection_samples, found.confirmation_samples, found.look) == (60, 60, 1)


def test_what_cannot_help_or_be_made_is_named_with_the_reason(found: SearchResult) -> None:
    assert found.skipped["int8"] == "does not lower parameters"
    assert "unknown technique 'prunning'" in found.skipped["misspelt"]
    assert found.skipped["unsuited"]


def test_a_finished_search_has_nothing_left_to_do(
    project: Path, state: Path, found: SearchResult
) -> None:
    before = records(state)
    again = hunt(project, state, time_limit_s=1e-9)
    assert (again.tried, again.is_finished) == (0, True)
    assert settled(again) == settled(found)
    assert records(state) == before
    assert not (state / ".work").exists()


def test_a_killed_search_goes_on_with_what_it_had(
    project: Path, found: SearchResult, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    command = [
        sys.executable,
        "-m",
        "tests.variants.analysis.search.hunt",
        str(project),
        str(state),
    ]
    path = os.pathsep.join([str(project.parent), *sys.path])
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    try:
        wait_until(lambda: child.poll() is not None or len(records(state)) >= 2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    at_kill = records(state)
    assert all(read_record(CandidateTrial, state / name) for name in at_kill)
    assert len(at_kill) >= 2
    assert "looks.json" not in at_kill
    resumed = hunt(project, state)
    assert resumed.tried == len(records(state)) - 1 - len(at_kill)  # looks.json is no candidate
    assert {name: records(state)[name] for name in at_kill} == at_kill
    assert settled(resumed) == settled(found)


def test_without_time_nothing_is_begun(project: Path, tmp_path: Path) -> None:
    nothing = hunt(project, tmp_path, time_limit_s=1e-9)
    assert (nothing.tried, nothing.rows, nothing.is_finished) == (0, (), False)
    assert "nothing could be tried" in sentences(nothing)[0]
    assert "run it again to go on" in "\n".join(sentences(nothing))


def test_a_budget_that_cannot_be_met_says_what_came_nearest(
    project: Path, state: Path, found: SearchResult
) -> None:
    strict = hunt(project, state, Goal(max_drop=1e-6, least="parameters"))
    assert strict.chosen is None
    assert strict.nearest is not None
    assert strict.nearest.verdict == "drops too much"
    assert "no candidate does; nearest came" in sentences(strict)[0]


def test_the_best_accuracy_within_a_latency_starts_with_the_mildest(
    project: Path, state: Path, found: SearchResult
) -> None:
    any_time = hunt(project, state, Goal(latency_s=1000.0))
    assert any_time.chosen == "pruned-0.1"
    assert {row.verdict for row in any_time.rows} == {"meets"}
    no_time = hunt(project, state, Goal(latency_s=1e-9))
    assert no_time.chosen is None
    assert no_time.nearest is not None
    assert no_time.nearest.verdict == "too slow"


def test_the_command_says_so_if_there_was_no_time(
    project: Path, state: Path, found: SearchResult, tmp_path: Path
) -> None:
    written = tmp_path / "found.yaml"
    command = ["search", str(project), "--max-drop", "20", "--least", "parameters"]
    command += ["--state", str(state), "--time-limit", "0.001s", "--write", str(written)]
    result = CliRunner().invoke(cli, command)
    assert result.exception is None, result.output
    # The command's own space is another: nothing of it was tried, and there was no time to.
    assert "nothing could be tried" in " ".join(result.output.split())
    assert yaml.safe_load(written.read_text()) == {"recipes": {}}


def test_all_that_json_prints_is_json(project: Path, tmp_path: Path) -> None:
    command = ["search", str(project), "--max-drop", "20", "--least", "parameters", "--json"]
    result = CliRunner().invoke(cli, [*command, "--state", str(tmp_path), "--time-limit", "0.001s"])
    assert result.exception is None, result.output
    assert SearchResult.model_validate_json(result.stdout).model == "tiny"
    assert "search" in result.stderr  # the bar


SUPPORT = onnxruntime.NotImplemented("no kernel for [n, classes] [/it]")


@pytest.mark.parametrize(
    ("error", "told", "has_record"),
    [
        pytest.param(SUPPORT, "no kernel for [n, classes] [/it]", True, id="onnxruntime"),
        pytest.param(ValueError("all :100: gone"), "all :100: gone", True, id="unsuited"),
        pytest.param(
            RuntimeError("out of memory\nat once"),
            "failed this time: RuntimeError: out of memory",
            False,
            id="memory",
        ),
        pytest.param(KeyError("x"), "failed this time: KeyError: 'x'", False, id="mistake"),
    ],
)
def test_a_candidate_that_fails_ends_no_search(
    project: Path, tmp_path: Path, error: Exception, told: str, has_record: bool
) -> None:
    def attempt(bench: Bench, recipe: Recipe, on_step: Callable[[str], None]) -> Measured:
        if recipe == SPACE[0].at(0):
            raise error
        return try_recipe(bench, recipe, on_step)

    console = Console(file=io.StringIO(), width=200)
    found = hunt(project, tmp_path, progress=Progress(console=console), attempt=attempt)
    assert found.skipped["pruned-0.1"] == told
    assert found.skipped["unsuited"]  # it came later
    assert isinstance(console.file, io.StringIO)
    assert f"pruned-0.1: not made: {told}\n" in console.file.getvalue()
    assert found.is_finished == has_record
    again = hunt(project, tmp_path, time_limit_s=1e-9)
    assert ("pruned-0.1" in again.skipped) == has_record


def test_each_goal_looks_for_itself(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path), GOAL.model_copy(update={"max_drop": 0.1})
    assert [ledger.look(goal, ["a", "b"]) for goal in (GOAL, other, GOAL)] == [1, 2, 1]
    assert ledger.look(GOAL, ["b", "a"]) == 3


def test_one_search_at_a_time_holds_the_state(project: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path).held(), pytest.raises(ValueError, match="another search is at work"):
        hunt(project, tmp_path)


def test_the_recipes_can_be_pasted_into_a_project_file(found: SearchResult, tmp_path: Path) -> None:
    write_recipes(found, tmp_path / "found.yaml")
    recipes = yaml.safe_load((tmp_path / "found.yaml").read_text())["recipes"]
    assert list(recipes) == [row.name for row in found.rows]
    for row in found.rows:
        steps = tuple(Step.model_validate(step) for step in recipes[row.name])
        assert steps == row.recipe
        resolve_all(steps)
    assert "confirmed" in recipes_yaml(found)


def test_the_table_holds_every_row(found: SearchResult) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(found))
    text = capture.get()
    assert all(
        row.name in text and f"{row.parameters / found.dense_parameters:.1%}" in text
        for row in found.rows
    )
    assert "a drop of at most 20 points (95%)" in text


def test_the_parts_share_no_sample_and_follow_the_seed() -> None:
    split = tiny.split(101)
    rows = {row.tobytes(): number for number, row in enumerate(split.samples["input"])}

    def numbers(part: Split) -> set[int]:
        return {rows[row.tobytes()] for row in part.samples["input"]}

    selection, confirmation = (numbers(part) for part in divide(split, 0))
    assert (len(selection), len(confirmation)) == (51, 50)
    assert not selection & confirmation
    assert numbers(divide(split, 1)[0]) != selection
    with pytest.raises(ValueError, match="2 validation samples"):
        divide(split.part(0, 1), 0)


def test_a_key_depends_on_recipe_and_subject() -> None:
    family = SPACE[0]
    keys = {key_of(subject, family.at(level)) for subject in "ab" for level in range(3)}
    assert len(keys) == 6
    assert key_of("a", family.at(0)) in keys
