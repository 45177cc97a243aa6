from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
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
from tests.variants.analysis.search.small_search import ALL, GOAL, SPACE, run_search, write_project
from tests.waiting import wait_until
from variants.analysis.search import context as search_context
from variants.analysis.search.context import SearchContext, divide, measure_recipe
from variants.analysis.search.goal import Goal
from variants.analysis.search.report import recipes_yaml, sentences, table, write_recipes
from variants.analysis.search.result import SearchResult
from variants.analysis.search.space import Family
from variants.analysis.search.store import CandidateTrial, Measurement, TrialStore, trial_key
from variants.catalog.recipe import Recipe, Step
from variants.catalog.record import read_record
from variants.compression.techniques import resolve_all
from variants.model.dataset import Split
from variants.model.state import CompressionState

pytestmark = pytest.mark.slow

NAMES = {"pruned-0.1", "pruned-0.4", "pruned-0.7"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("searched"), "searched_model")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def result(project: Path, state: Path) -> SearchResult:
    return run_search(project, state)


def reproducible(result: SearchResult) -> dict[str, Any]:
    """Return the reproducible part of a result: all but latencies and the counts of this run."""
    record = result.model_dump(mode="json", exclude={"tried", "dense_latency_s"})
    for row in (*record["rows"], *filter(None, [record["nearest"]])):
        del row["latency_s"], row["speedup"]
    return record


def records(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.glob("*.json")}


def test_the_strongest_candidate_within_the_drop_is_chosen_and_confirmed(
    result: SearchResult, state: Path
) -> None:
    assert result.is_finished
    assert result.chosen is not None
    chosen = next(row for row in result.rows if row.name == result.chosen)
    assert chosen.verdict == "confirmed"
    assert chosen.confirmation is not None
    assert chosen.confirmation.low >= -0.2
    assert chosen.parameters < result.dense_parameters
    assert chosen.parameters == min(r.parameters for r in result.rows if r.verdict == "confirmed")
    assert {row.name for row in result.rows} <= NAMES
    assert (result.selection_samples, result.confirmation_samples, result.look) == (60, 60, 1)


def test_a_family_that_is_skipped_is_named_with_the_reason(result: SearchResult) -> None:
    assert result.skipped["int8"] == "does not lower parameters"
    assert "unknown technique 'prunning'" in result.skipped["misspelt"]
    assert result.skipped["unsuited"]


def test_a_finished_search_does_nothing_more(
    project: Path, state: Path, result: SearchResult
) -> None:
    before = records(state)
    again = run_search(project, state, time_limit_s=1e-9)
    assert (again.tried, again.is_finished) == (0, True)
    assert reproducible(again) == reproducible(result)
    assert records(state) == before
    assert not (state / ".work").exists()


def test_a_killed_search_continues_from_its_records(
    project: Path, result: SearchResult, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    command = [
        sys.executable,
        "-m",
        "tests.variants.analysis.search.small_search",
        str(project),
        str(state),
    ]
    path = os.pathsep.join([str(project.parent), *sys.path])
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # as many threads as in this process
    child = subprocess.Popen(command, env=os.environ | settings)
    try:
        wait_until(lambda: child.poll() is not None or len(records(state)) >= 2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    at_kill = records(state)
    assert all(read_record(CandidateTrial, state / name) for name in at_kill)
    assert len(at_kill) == 2
    assert "looks.json" not in at_kill
    resumed = run_search(project, state)
    assert resumed.tried == len(records(state)) - len(at_kill) - 1  # without looks.json
    assert {name: records(state)[name] for name in at_kill} == at_kill
    assert reproducible(resumed) == reproducible(result)


def test_without_time_no_candidate_is_started(project: Path, tmp_path: Path) -> None:
    empty = run_search(project, tmp_path, time_limit_s=1e-9)
    assert (empty.tried, empty.rows, empty.is_finished) == (0, (), False)
    assert "nothing could be tried" in sentences(empty)[0]
    assert "run the search again to continue" in "\n".join(sentences(empty))


def test_a_candidate_is_measured_in_the_runtime_that_would_serve_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def choose(state: CompressionState, *_: object, **__: object) -> CompressionState:
        calls.append(state)
        return state

    monkeypatch.setattr(search_context, "choose_runtime", choose)
    (int8,) = (family for family in SPACE if family.name == "int8")
    run_search(project, tmp_path, GOAL.model_copy(update={"least": "bytes"}), space=(int8,))
    assert [state.graph is None for state in calls] == [False]


def test_a_goal_that_cannot_be_met_names_the_nearest_candidate(
    project: Path, state: Path, result: SearchResult
) -> None:
    strict = run_search(project, state, Goal(max_drop=1e-6, least="parameters"))
    assert strict.chosen is None
    assert strict.nearest is not None
    assert strict.nearest.verdict == "drops too much"
    assert "no candidate; the nearest is" in sentences(strict)[0]


def test_the_best_accuracy_within_a_latency_is_that_of_the_mildest(
    project: Path, state: Path, result: SearchResult
) -> None:
    any_time = run_search(project, state, Goal(latency_s=1000.0))
    assert any_time.chosen == "pruned-0.1"
    assert {row.verdict for row in any_time.rows} == {"meets"}
    no_time = run_search(project, state, Goal(latency_s=1e-9))
    assert no_time.chosen is None
    assert no_time.nearest is not None
    assert no_time.nearest.verdict == "too slow"


def test_the_command_reports_that_there_was_no_time(
    project: Path, state: Path, result: SearchResult, tmp_path: Path
) -> None:
    written = tmp_path / "recipes.yaml"
    command = ["search", str(project), "--max-drop", "20", "--least", "parameters"]
    command += ["--state", str(state), "--time-limit", "0.001s", "--write", str(written)]
    done = CliRunner().invoke(cli, command)
    assert done.exception is None, done.output
    # The command's space is a different one, of which no candidate has a record.
    assert "nothing could be tried" in " ".join(done.output.split())
    assert yaml.safe_load(written.read_text()) == {"recipes": {}}


def test_the_option_json_prints_only_json(project: Path, tmp_path: Path) -> None:
    command = ["search", str(project), "--max-drop", "20", "--least", "parameters", "--json"]
    done = CliRunner().invoke(cli, [*command, "--state", str(tmp_path), "--time-limit", "0.001s"])
    assert done.exception is None, done.output
    assert SearchResult.model_validate_json(done.stdout).model == "tiny"
    assert "search" in done.stderr  # the bar


CAUSED_BY_RECIPE: Mapping[str, tuple[Exception, str]] = {
    "onnxruntime": (
        onnxruntime.NotImplemented("no kernel for [n, classes] [/it]"),
        "no kernel for [n, classes] [/it]",
    ),
    "unsuited": (ValueError("all :100: gone"), "all :100: gone"),
}
OTHER_FAILURES: Mapping[str, tuple[Exception, str]] = {
    "memory": (
        RuntimeError("out of memory\nat once"),
        "failed this time: RuntimeError: out of memory",
    ),
    "mistake": (KeyError("x"), "failed this time: KeyError: 'x'"),
}


def failing_space(failures: Mapping[str, tuple[Exception, str]]) -> tuple[Family, ...]:
    """Return a family of one recipe for each failure, and then one whose recipe can be built."""
    names = (*failures, "works")
    return tuple(
        Family(name, ALL, (Step(technique="activation-pruning", parameters={"share": share}),))
        for share, name in zip((0.1, 0.2, 0.3), names, strict=True)
    )


@pytest.mark.parametrize(
    ("failures", "has_record"),
    [
        pytest.param(CAUSED_BY_RECIPE, True, id="caused by the recipe"),
        pytest.param(OTHER_FAILURES, False, id="other failures"),
    ],
)
def test_a_candidate_that_fails_does_not_end_the_search(
    project: Path,
    tmp_path: Path,
    failures: Mapping[str, tuple[Exception, str]],
    has_record: bool,
) -> None:
    space = failing_space(failures)
    errors = [(family.at(0), failures[family.name][0]) for family in space[:-1]]

    def measure(
        context: SearchContext, recipe: Recipe, on_step: Callable[[str], None]
    ) -> Measurement:
        for failing, error in errors:
            if recipe == failing:
                raise error
        return measure_recipe(context, recipe, on_step)

    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console=console)
    result = run_search(project, tmp_path, progress=progress, measure=measure, space=space)
    assert isinstance(console.file, io.StringIO)
    assert result.skipped == {name: message for name, (_, message) in failures.items()}
    for name, (_, message) in failures.items():
        assert f"{name}: not built: {message}\n" in console.file.getvalue()
    assert (result.known, result.tried) == (1, 1)  # the last one was tried after them
    assert result.is_finished == has_record
    again = run_search(project, tmp_path, time_limit_s=1e-9, space=space)
    assert again.skipped == (result.skipped if has_record else {})


def test_each_goal_and_order_of_candidates_is_a_look_of_its_own(tmp_path: Path) -> None:
    store, other = TrialStore(tmp_path), GOAL.model_copy(update={"max_drop": 0.1})
    assert [store.add_look(goal, ["a", "b"]) for goal in (GOAL, other, GOAL)] == [1, 2, 1]
    assert store.add_look(GOAL, ["b", "a"]) == 3


def test_only_one_search_at_a_time_can_use_the_state(project: Path, tmp_path: Path) -> None:
    with TrialStore(tmp_path).lock(), pytest.raises(ValueError, match="another search is using"):
        run_search(project, tmp_path)


def test_the_recipes_can_be_pasted_into_a_project_file(
    result: SearchResult, tmp_path: Path
) -> None:
    write_recipes(result, tmp_path / "recipes.yaml")
    recipes = yaml.safe_load((tmp_path / "recipes.yaml").read_text())["recipes"]
    assert list(recipes) == [row.name for row in result.rows]
    for row in result.rows:
        steps = tuple(Step.model_validate(step) for step in recipes[row.name])
        assert steps == row.recipe
        resolve_all(steps)
    assert "confirmed" in recipes_yaml(result)


def test_the_table_has_every_row(result: SearchResult) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(result))
    text = capture.get()
    assert all(
        row.name in text and f"{row.parameters / result.dense_parameters:.1%}" in text
        for row in result.rows
    )
    assert "a drop of at most 20 points (95%)" in text


def test_the_parts_are_disjoint_and_depend_on_the_seed() -> None:
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


def test_a_key_depends_on_recipe_and_conditions() -> None:
    family = SPACE[0]
    keys = {trial_key(conditions, family.at(level)) for conditions in "ab" for level in range(3)}
    assert len(keys) == 6
    assert trial_key("a", family.at(0)) in keys
