"""Artifacts of the catalog become generations: files and row together, whatever is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.control.adoption import adopt_artifact
from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from serving.errors import ModelNotFound
from tests.serving.control.api.administered import INT8, write_variant
from tests.serving.control.store.test_kill import left_by_a_kill
from variants.catalog import generations


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    write_variant(tmp_path / "catalog" / "int8", "int8", INT8)
    return tmp_path / "catalog"


def opened(folder: Path) -> Store:
    return Store(sqlite_url(folder / "state.db"))


def numbers(store: Store) -> list[int]:
    try:
        return [each.number for each in store.variant("int8").generations]
    except ModelNotFound:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("publish", [True, False], ids=["published", "kept"])
def test_a_process_that_is_killed_anywhere_leaves_no_generation_without_files(
    catalog: Path, tmp_path: Path, publish: bool
) -> None:
    found = []
    for point in range(1, 100):
        folder = tmp_path / str(point)
        copy = Path(shutil.copytree(catalog, folder / "catalog"))
        opened(folder).close()

        def prepare(folder: Path = folder, copy: Path = copy) -> Callable[[], object]:
            store = opened(folder)
            return lambda: adopt_artifact(store, copy, "int8", publish=publish)

        if not left_by_a_kill(point, prepare):
            break
        with opened(folder) as store:
            found.append(numbers(store))
            for number in found[-1]:
                generations.verify(copy, "int8", number)
            assert adopt_artifact(store, copy, "int8", publish=publish) == 1
            generations.verify(copy, "int8", 1)
    assert (found[0], found[-1]) == ([], [1])


def test_files_that_a_killed_process_has_left_are_replaced(catalog: Path, tmp_path: Path) -> None:
    write_variant(catalog / "other", "int8", INT8, "another artifact")
    generations.publish_draft(catalog / "other", catalog, "int8", 1)
    with opened(tmp_path) as store:
        assert adopt_artifact(store, catalog, "int8") == 1
        digest = generations.digest(generations.verify(catalog, "int8", 1))
        assert store.generation("int8", 1).digest == digest


def test_a_damaged_artifact_is_no_generation(catalog: Path, tmp_path: Path) -> None:
    (catalog / "int8" / "model.onnx").write_bytes(b"damaged")
    with opened(tmp_path) as store:
        with pytest.raises(ValueError, match=r"model\.onnx is damaged"):
            adopt_artifact(store, catalog, "int8")
        assert numbers(store) == []
    assert generations.on_disk(catalog) == frozenset()


def test_files_that_were_lost_are_put_back(catalog: Path, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        adopt_artifact(store, catalog, "int8")
        shutil.rmtree(generations.folder(catalog, "int8", 1))
        assert adopt_artifact(store, catalog, "int8") == 1
    generations.verify(catalog, "int8", 1)
