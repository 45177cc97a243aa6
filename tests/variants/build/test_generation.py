from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from tests.small import RECIPES, measure_lightly
from tests.variants.model.projects import write_model, write_project
from tests.waiting import wait_until
from variants.build.generation import build_generation
from variants.catalog import generations
from variants.catalog.artifact import DRAFTS, read_all
from variants.catalog.build_request import (
    BuildError,
    BuildEvent,
    BuildLog,
    BuildProgress,
    BuildRequest,
    BuildResult,
    read_event,
)
from variants.catalog.catalog import Catalog
from variants.catalog.device import gpu_names
from variants.catalog.recipe import Recipe, Step

INT8 = (Step(technique="int8", parameters={"samples": 128}),)
PRUNED = TypeAdapter(Recipe).validate_python(RECIPES["activation-pruned"])


@pytest.fixture
def catalog(small_catalog: Path, tmp_path: Path) -> Path:
    """A copy of the small catalog."""
    copy = tmp_path / "catalog"
    shutil.copytree(small_catalog, copy)
    return copy


def _request(project: Path, catalog: Path, **changes: Any) -> BuildRequest:
    values = {"project": project, "catalog": catalog, "name": "new", "number": 1, "recipe": INT8}
    return BuildRequest.model_validate(values | changes)


def _content(folder: Path) -> dict[str, bytes]:
    """Return all files of a catalog that `paretoserve build` wrote."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(".")
    }


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_an_error_before_anything_is_built(
    small_project: Path, catalog: Path
) -> None:
    events: list[BuildEvent] = []
    with pytest.raises(ValueError, match="`tensorrt` needs an NVIDIA GPU"):
        build_generation(_request(small_project, catalog, device="tensorrt"), events.append)
    assert not any(isinstance(event, BuildLog) for event in events)


def test_a_generation_is_built_measured_and_written_beside_the_catalog(
    small_project: Path, catalog: Path
) -> None:
    before = _content(catalog)
    events: list[BuildEvent] = []
    result = build_generation(
        _request(small_project, catalog, number=3), events.append, measure=measure_lightly
    )
    built = generations.verify(catalog, "new", 3)
    assert result == BuildResult(built=generations.digest(built))
    assert (built.name, built.recipe, built.runner) == ("new", INT8, "onnx")
    (card,) = built.report_cards
    assert card.accuracy_difference.low <= card.accuracy_difference.value
    assert [latency.batch_size for latency in card.latencies] == [1, 8, 64]
    # The same recipe and weights give the same bytes, though the graph of dense was not made again.
    other = Catalog.load(catalog).variants["int8"]
    assert read_all(generations.folder(catalog, "new", 3), built) == read_all(
        catalog / "int8", other
    )
    assert _content(catalog) == before
    assert generations.on_disk(catalog) == {("new", 3)}
    assert list((catalog / DRAFTS).iterdir()) == []


def test_stages_follow_each_other_and_their_shares_rise(small_project: Path, catalog: Path) -> None:
    events: list[BuildEvent] = []
    request = _request(small_project, catalog, recipe=(*PRUNED, *INT8))
    build_generation(request, events.append, measure=measure_lightly)
    progress = [event for event in events if isinstance(event, BuildProgress)]
    stages = list(dict.fromkeys(event.stage for event in progress))
    assert stages == ["techniques", "recovery", "evaluation", "profiling"]
    for stage in stages:
        shares = [event.share for event in progress if event.stage == stage]
        assert shares == sorted(set(shares))
        assert shares[-1] == 1
    order = [stages.index(event.stage) for event in progress]
    assert order == sorted(order)
    text = "\n".join(event.log for event in events if isinstance(event, BuildLog))
    assert "new: activation-pruning ─▶ recover ─▶ int8" in text
    assert "calibration samples" in text
    assert "against dense" in text


def test_what_cannot_be_built_is_refused_in_words(
    small_project: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(match: str, project: Path = small_project, **changes: Any) -> None:
        request = _request(project, changes.pop("catalog", catalog), **changes)
        with pytest.raises(ValueError, match=match):
            build_generation(request, lambda event: None)

    before = _content(catalog)
    refuse("dense is the baseline", name="dense")
    refuse("unknown technique 'x'", recipe=(Step(technique="x"),))
    refuse("there is no project file", project=tmp_path / "none.yaml")
    refuse("is not a catalog", catalog=tmp_path / "none")
    refuse(
        "new: int8: .*exclude.*matches no layer",
        recipe=(Step(technique="int8", parameters={"exclude": ["nothing"]}),),
    )
    other = yaml.safe_load(small_project.read_text()) | {"name": "other"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    refuse("another model, weights or datasets", project=tmp_path / "other.yaml")
    broken = write_model(tmp_path, monkeypatch, network="def network(): return 7")
    refuse("network.*must return", project=write_project(tmp_path, broken, {}))
    (catalog / "dense" / "model.onnx").write_bytes(b"damaged")
    refuse(r"dense/model\.onnx is damaged")
    before["dense/model.onnx"] = b"damaged"
    assert _content(catalog) == before
    assert generations.on_disk(catalog) == set()
    assert not any((catalog / DRAFTS).iterdir())


def _start(stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "variants.build.generation"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _events(output: bytes) -> list[BuildEvent]:
    return [read_event(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "Invalid JSON"),
        (b'{"name": "../x"}', "name"),
        (b"", "Invalid JSON"),
    ],
)
def test_a_wrong_request_gets_one_line_with_the_error(line: bytes, message: str) -> None:
    with _start() as builder:
        out, _ = builder.communicate(line + b"\n")
    (event,) = _events(out)
    assert isinstance(event, BuildError)
    assert message in event.error
    assert builder.returncode == 1


PRINTING = """
def network():
    print('a line of a module')
    raise LookupError('no such layer')
"""


def test_an_error_of_user_code_is_one_sentence_and_its_output_is_no_event(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, write_model(tmp_path, monkeypatch, network=PRINTING), {})
    with _start() as builder:
        assert builder.stdin is not None
        builder.stdin.write(_request(project, catalog).model_dump_json().encode() + b"\n")
        builder.stdin.flush()
        assert builder.stdout is not None
        events = _events(builder.stdout.read())
        assert builder.stderr is not None
        assert b"a line of a module" in builder.stderr.read()
    error = events[-1]
    assert isinstance(error, BuildError)
    assert "no such layer" in error.error
    assert "\n" not in error.error


def test_a_builder_does_not_outlive_its_parent(small_project: Path, catalog: Path) -> None:
    endless = (Step(technique="recover", parameters={"epochs": 10_000}),)
    request = _request(small_project, catalog, recipe=endless).model_dump_json()
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'variants.build.generation'],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(sys.argv[1].encode() + b'\\n'); child.stdin.flush()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, request],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        builder = int(parent.stdout.readline())
        assert Path(f"/proc/{builder}").exists()
        parent.kill()
        wait_until(lambda: _has_ended(builder))
    assert generations.on_disk(catalog) == set()


def _has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody waits for an orphan in some containers


def test_events_are_read_back() -> None:
    for event in (
        BuildProgress(stage="profiling", share=0.25),
        BuildLog(log="a line"),
        BuildResult(built="abc"),
        BuildError(error="no"),
    ):
        assert read_event(event.model_dump_json().encode()) == event
    for line in (b"text", b"{}", json.dumps({"stage": "gate", "share": 2}).encode()):
        with pytest.raises(ValueError, match="validation error"):
            read_event(line)
