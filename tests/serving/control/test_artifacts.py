"""Copies of generations in object storage: what a service uploads, reads and deletes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.control.api.sources import InCatalog, Sources
from serving.control.startup import adopt_catalog
from serving.control.store.store import Store
from serving.errors import Conflict, NotReady
from tests.serving.control.test_agent import RecordingGateway, agent_of
from tests.serving.control.test_building import RECIPE, build
from tests.waiting import until
from variants.catalog import generations
from variants.catalog.storage import Storage


@pytest.fixture
def catalog(tmp_path: Path, small_catalog: Path) -> Path:
    return Path(shutil.copytree(small_catalog, tmp_path / "catalog"))


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def storage(bucket: Path) -> Storage:
    return Storage(f"file://{bucket}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        yield store


def records(bucket: Path) -> set[str]:
    return {str(path.relative_to(bucket)) for path in bucket.glob("*/*.json")}


def test_a_start_copies_what_is_on_disk(
    catalog: Path, store: Store, storage: Storage, bucket: Path
) -> None:
    adopt_catalog(store, catalog, ["dense"])  # before there was a storage
    adopt_catalog(store, catalog, ["dense"], storage=storage)
    names = {path.parent.name for path in catalog.glob("*/variant.json")}
    assert records(bucket) == {f"{name}/1.json" for name in names}


def test_a_start_without_the_storage_serves_what_is_on_disk(
    catalog: Path, store: Store, storage: Storage, bucket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.write_text("a file")
    with caplog.at_level(logging.ERROR):
        adopt_catalog(store, catalog, storage=storage)
    assert store.lineup().published.keys() >= {"dense", "int8"}
    assert "cannot be copied" in caplog.text


def test_a_build_on_another_node_fetches_dense_and_uploads_the_result(
    catalog: Path, small_project: Path, store: Store, storage: Storage, tmp_path: Path, bucket: Path
) -> None:
    adopt_catalog(store, catalog, storage=storage)
    empty = tmp_path / "empty"
    empty.mkdir()
    job = build(
        store,
        empty,
        small_project,
        artifacts=f"file://{bucket}",
        max_accuracy_drop=1.0,
        allow_dominated=True,
    )
    assert (job.status, job.error) == ("running", None)
    assert generations.load(empty, "new", 1) == storage.record("new", 1)
    assert generations.on_disk(empty) == {("new", 1)}


def test_a_build_that_cannot_be_copied_fails_with_the_cause(
    catalog: Path, store: Store, bucket: Path, small_project: Path
) -> None:
    adopt_catalog(store, catalog)
    bucket.write_text("a file")
    job = build(
        store,
        catalog,
        small_project,
        artifacts=f"file://{bucket}",
        max_accuracy_drop=1.0,
        allow_dominated=True,
    )
    assert job.status == "failed"
    assert job.error is not None
    assert f"file://{bucket}/" in job.error
    generation = store.generation("new", 1)
    assert (generation.state, generation.error) == ("failed", job.error)
    assert "new" not in store.lineup().warming


def test_an_artifact_that_cannot_be_copied_is_not_published(
    catalog: Path, store: Store, storage: Storage, bucket: Path
) -> None:
    sources = Sources(store, catalog, None, storage)
    found = sources.new_artifact("int8", None)
    assert isinstance(found, InCatalog)
    number = sources.adopt("int8", found, "me").number
    bucket.write_text("a file")
    with pytest.raises(NotReady, match="cannot be"):
        sources.copy("int8", number)
    assert "cannot be" in (store.generation("int8", number).error or "")
    bucket.unlink()
    sources.copy("int8", number)
    assert records(bucket) == {"int8/1.json"}


def test_files_that_are_missing_on_this_node_are_looked_for_in_the_storage(
    catalog: Path, store: Store, storage: Storage, bucket: Path
) -> None:
    adopt_catalog(store, catalog, storage=storage)
    shutil.rmtree(generations.folder(catalog, "int8", 1))
    generation = store.generation("int8", 1)
    Sources(store, catalog, None, storage).check_files(generation)
    shutil.rmtree(bucket / "int8")
    with pytest.raises(Conflict, match=r"is not on disk.*int8/1\.json cannot be read"):
        Sources(store, catalog, None, storage).check_files(generation)


async def test_a_gateway_reads_records_that_are_not_on_its_node(
    catalog: Path, store: Store, storage: Storage, tmp_path: Path
) -> None:
    adopt_catalog(store, catalog, storage=storage)
    gateway = RecordingGateway()
    await agent_of(gateway, store, tmp_path / "empty", storage=storage).step()
    assert gateway.records["int8", 1] == generations.load(catalog, "int8", 1)


async def test_copies_of_old_generations_are_deleted(tmp_path: Path, catalog: Path) -> None:
    from tests.serving.control.simulated import World

    world = World(tmp_path)
    bucket = tmp_path / "bucket"
    storage = Storage(f"file://{bucket}")
    storage_of_all = {"dense": 1, "int8": 1}
    for name, number in storage_of_all.items():
        generations.adopt(catalog, name, number)
        storage.upload(catalog, name, number)
    world.settle()
    for number in range(2, 6):
        world.store.submit_build("int8", RECIPE, "me", must_exist=True)
        world.settle()
        generations.adopt(catalog, "int8", number)
        storage.upload(catalog, "int8", number)
    assert world.store.generation("int8", 1).state == "deleted"
    world.use(storage)
    world.settle()
    kept = {
        f"{variant.name}/{each.number}.json"
        for variant in world.store.variants()
        for each in variant.generations
        if each.state != "deleted"
    }
    await until(lambda: records(bucket) == kept)
    storage.restore(tmp_path / "empty", "int8", 5)
