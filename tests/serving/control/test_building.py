"""Building the generation of a job: the real process, the real gate and the real store."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.control.building import build_job
from serving.control.settings import Builder, Gate
from serving.control.startup import adopt_catalog
from serving.control.state import Job
from serving.control.store.store import Store
from serving.errors import NotReady
from variants.catalog import generations
from variants.catalog.device import Device, gpu_names
from variants.catalog.recipe import Recipe, Step

RECIPE: Recipe = (Step(technique="int8", parameters={"samples": 64}),)


@pytest.fixture
def catalog(tmp_path: Path, small_catalog: Path) -> Path:
    return Path(shutil.copytree(small_catalog, tmp_path / "catalog"))


@pytest.fixture
def store(catalog: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{catalog / '.control' / 'state.db'}") as store:
        adopt_catalog(store, catalog)
        yield store


def build(
    store: Store,
    catalog: Path,
    project: Path | None,
    recipe: Recipe = RECIPE,
    artifacts: str | None = None,
    device: Device = "cpu",
    **gate: object,
) -> Job:
    job = store.submit_build("new", recipe, "me", must_exist=False)
    store.start_job(job.id)
    build_job(
        store,
        job.id,
        project=project,
        catalog=catalog,
        artifacts=artifacts,
        builder=Builder(),
        gate=Gate.model_validate(gate),
        threads=1,
        device=device,
        replicas=1,
    )
    return store.job(job.id)


def test_what_passes_the_gate_is_warmed_up(
    store: Store, catalog: Path, small_project: Path
) -> None:
    job = build(store, catalog, small_project, max_accuracy_drop=1.0, allow_dominated=True)
    assert (job.status, job.stage, job.error) == ("running", "warming", None)
    assert store.lineup().warming == {"new": 1}
    generation = store.generation("new", 1)
    assert generation.digest == generations.digest(generations.verify(catalog, "new", 1))
    assert generation.gate is not None
    assert {check.rule for check in generation.gate.checks} == {"max_accuracy_drop"}
    assert {"techniques", "evaluation", "profiling"} <= job.stage_seconds.keys()


def test_what_does_not_is_kept_unrouted_with_the_reason(
    store: Store, catalog: Path, small_project: Path
) -> None:
    job = build(store, catalog, small_project, memory_bytes=1, allow_dominated=True)
    assert job.status == "rejected"
    assert job.error is not None
    assert "all hosts together use" in job.error
    assert store.generation("new", 1).state == "rejected"
    assert "new" not in store.lineup().published
    assert generations.load(catalog, "new", 1).name == "new"


def test_a_service_without_a_project_says_how_to_build(store: Store, catalog: Path) -> None:
    job = build(store, catalog, None)
    assert job.status == "failed"
    assert job.error is not None
    assert "paretoserve up --project" in job.error


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
def test_a_device_that_is_not_there_fails_with_the_cause(
    store: Store, catalog: Path, small_project: Path
) -> None:
    job = build(store, catalog, small_project, device="cuda")
    assert job.status == "failed"
    assert job.error is not None
    assert "the device `cuda` needs an NVIDIA GPU" in job.error


def test_a_recipe_that_cannot_be_applied_fails_with_the_cause(
    store: Store, catalog: Path, small_project: Path
) -> None:
    twice = (*RECIPE, *RECIPE)
    job = build(store, catalog, small_project, twice)
    assert job.status == "failed"
    assert job.error
    assert "Traceback" not in job.error
    assert ("new", 1) not in generations.on_disk(catalog)


def test_an_unexpected_error_is_in_the_job_without_its_traceback_which_is_in_the_log(
    store: Store,
    catalog: Path,
    small_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start(*_: object, **__: object) -> str:
        raise PermissionError("no process\ncan be started")

    monkeypatch.setattr("serving.control.building.run_build", start)
    with caplog.at_level(logging.ERROR):
        job = build(store, catalog, small_project)
    assert job.status == "failed"
    assert job.error == (
        "an internal error of the builder: PermissionError: no process can be started"
    )
    assert store.generation("new", 1).error == job.error
    assert "Traceback" in caplog.text


def test_a_build_survives_a_store_that_does_not_answer_for_a_while(
    store: Store, catalog: Path, small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = set[str]()

    def unreliable(name: str) -> Callable[..., object]:
        """Return the method, which raises in its first call."""
        method = getattr(store, name)

        def call(*args: object) -> object:
            if name in failed:
                return method(*args)
            failed.add(name)
            raise NotReady("the database does not answer")

        return call

    for name in ("report_progress", "log", "built"):
        monkeypatch.setattr(store, name, unreliable(name))
    job = build(store, catalog, small_project, max_accuracy_drop=1.0, allow_dominated=True)
    assert failed == {"report_progress", "log", "built"}
    assert (job.status, job.stage, job.attempts) == ("running", "warming", 1)
