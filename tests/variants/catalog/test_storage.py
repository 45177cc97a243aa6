"""Copies of generations, in a folder and in the object storage of fsspec that is in memory."""

from __future__ import annotations

import hashlib
import threading
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from variants.catalog import generations
from variants.catalog.artifact import DRAFTS, remove, save, write_record
from variants.catalog.catalog import Model, TensorSpec, Variant
from variants.catalog.record import read_record
from variants.catalog.storage import Storage, load

GRAPH = b"the graph"
FILES = {"model.onnx": GRAPH, "weights.safetensors": b"the weights"}
INT8 = Variant(name="int8", recipe=(), runner="onnx", files=())
DENSE = Variant(name="dense", recipe=(), runner="onnx", files=())
SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
MODEL = Model(
    name="demo", factory="module:factory", weights_sha256="0" * 64, datasets_sha256="1" * 64,
    inputs=(SPEC,), outputs=(SPEC,),
)  # fmt: skip


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/it" if request.param == "file" else f"memory://{uuid4()}/it"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A catalog with generation 1 of int8 and of dense."""
    folder = tmp_path / "catalog"
    for variant in (INT8, DENSE):
        save(folder, variant, FILES)
        generations.adopt(folder, variant.name, 1)
    write_record(folder / "catalog.json", MODEL)
    return folder


def objects(url: str) -> dict[str, bytes]:
    """Return the contents under a URL by relative path."""
    fs, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}


def place(content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"{digest[:2]}/{digest}"


def write(url: str, path: str, content: bytes | None) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    if content is None:
        fs.rm_file(f"{root}/{path}")
    else:
        fs.pipe_file(f"{root}/{path}", content)


def test_files_are_stored_once_by_their_hash(url: str, catalog: Path) -> None:
    Storage(url).upload(catalog, "int8", 1)
    Storage(url).upload(catalog, "dense", 1)
    found = objects(url)
    assert found.keys() == {
        "catalog.json", "int8/1.json", "dense/1.json", *map(place, FILES.values()),
    }  # fmt: skip
    assert all(found[place(content)] == content for content in FILES.values())


def test_what_is_there_is_not_written_again_unless_a_part_is_missing(
    url: str, catalog: Path
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    write(url, place(GRAPH), b"THE GRAPH")  # of the same size, so it is not written again
    Storage(url).upload(catalog, "int8", 1)
    assert objects(url)[place(GRAPH)] == b"THE GRAPH"
    write(url, place(GRAPH), b"the")  # left by an upload that was interrupted
    Storage(url).upload(catalog, "int8", 1)
    assert objects(url)[place(GRAPH)] == GRAPH


def test_a_record_is_not_written_without_its_files(url: str, catalog: Path) -> None:
    path = generations.folder(catalog, "int8", 1) / "model.onnx"
    path.unlink()
    path.write_bytes(b"THE GRAPH")
    with pytest.raises(ValueError, match=r"model\.onnx is damaged"):
        Storage(url).upload(catalog, "int8", 1)
    assert "int8/1.json" not in objects(url)


def test_an_empty_folder_gets_the_model_and_the_generation(
    url: str, catalog: Path, tmp_path: Path
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    empty = tmp_path / "another node" / "catalog"
    Storage(url).restore(empty, "int8", 1)
    assert generations.verify(empty, "int8", 1) == generations.verify(catalog, "int8", 1)
    assert Model.load(empty) == MODEL
    assert list((empty / DRAFTS).iterdir()) == []
    assert generations.on_disk(empty) == {("int8", 1)}


@pytest.mark.parametrize("damage", [b"the grapH", b"short", None], ids=["hash", "size", "missing"])
def test_a_damaged_generation_is_restored_and_an_intact_one_is_left_alone(
    url: str, catalog: Path, damage: bytes | None
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    folder = generations.folder(catalog, "int8", 1)
    before = folder.stat().st_ino
    Storage(url).restore(catalog, "int8", 1)
    assert folder.stat().st_ino == before
    (folder / "model.onnx").unlink()
    if damage is not None:
        (folder / "model.onnx").write_bytes(damage)
    Storage(url).restore(catalog, "int8", 1)
    assert generations.verify(catalog, "int8", 1).name == "int8"


def test_processes_that_restore_at_the_same_time_wait_for_one(
    catalog: Path, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/bucket"
    Storage(url).upload(catalog, "int8", 1)
    empty = tmp_path / "empty"
    inodes = []

    def restore() -> None:
        Storage(url).restore(empty, "int8", 1)
        inodes.append(generations.folder(empty, "int8", 1).stat().st_ino)

    threads = [threading.Thread(target=restore) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inodes) == 8
    assert len(set(inodes)) == 1, "a folder that is in use was replaced"


def test_dense_is_restored_where_a_build_looks_for_it(
    url: str, catalog: Path, tmp_path: Path
) -> None:
    Storage(url).upload(catalog, "dense", 1)
    for folder in (catalog, tmp_path / "empty"):
        if folder == catalog:
            remove(catalog, "dense")
        Storage(url).restore_dense(folder, 1)
        assert read_record(Variant, folder / "dense" / "variant.json").name == "dense"
        assert (folder / "dense" / "model.onnx").read_bytes() == GRAPH
        assert Model.load(folder) == MODEL


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        pytest.param(place(GRAPH), b"the grapH", "is damaged: its sha256", id="wrong hash"),
        pytest.param(place(GRAPH), None, "does not exist", id="missing file"),
        pytest.param("int8/1.json", None, "does not exist", id="missing record"),
        pytest.param("int8/1.json", b'{"name": ', "is not valid JSON", id="invalid record"),
        pytest.param(
            "int8/1.json",
            DENSE.model_dump_json().encode(),
            "is not a record of int8",
            id="another variant",
        ),
        pytest.param("catalog.json", None, "does not exist", id="missing model"),
    ],
)
def test_what_cannot_be_restored_is_named_in_one_line_and_leaves_nothing(
    url: str, catalog: Path, tmp_path: Path, path: str, content: bytes | None, message: str
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    write(url, path, content)
    with pytest.raises(ValueError, match=message) as caught:
        Storage(url).restore(tmp_path / "empty", "int8", 1)
    assert f"{url}/{path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert generations.on_disk(tmp_path / "empty") == frozenset()


def test_a_record_cannot_name_a_file_outside_its_folder(
    url: str, catalog: Path, tmp_path: Path
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    record = objects(url)["int8/1.json"].replace(b"model.onnx", b"../../../evil")
    write(url, "int8/1.json", record)
    with pytest.raises(ValueError, match=r"'../../../evil' is not a plain file name"):
        Storage(url).restore(tmp_path / "empty", "int8", 1)
    assert not list(tmp_path.rglob("evil"))


def test_records_are_read_from_the_storage_only_if_they_are_not_on_disk(
    url: str, catalog: Path, tmp_path: Path
) -> None:
    Storage(url).upload(catalog, "int8", 1)
    local = generations.load(catalog, "int8", 1)
    assert load(Storage(url), tmp_path / "empty", "int8", 1) == local
    write(url, "int8/1.json", None)
    assert load(Storage(url), catalog, "int8", 1) == local
    with pytest.raises(ValueError, match=r"is not on disk.*does not exist"):
        load(Storage(url), tmp_path / "empty", "int8", 1)


def test_deletion_spares_files_that_another_generation_has(url: str, catalog: Path) -> None:
    save(catalog, INT8, {"model.onnx": GRAPH, "own": b"of this one"})
    generations.adopt(catalog, "int8", 2)
    storage = Storage(url)
    for name, number in (("dense", 1), ("int8", 1), ("int8", 2)):
        storage.upload(catalog, name, number)
    storage.delete({("int8", 2), ("int8", 7)})
    assert objects(url).keys() == {
        "catalog.json", "int8/1.json", "dense/1.json", *map(place, FILES.values()),
    }  # fmt: skip
    storage.delete({("int8", 1), ("dense", 1)})
    assert objects(url).keys() == {"catalog.json"}


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(
            "s3://bucket/folder",
            marks=pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed"),
        ),
        "nothing://bucket",
    ],
)
def test_a_library_that_is_missing_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"paretoserve\[object-storage\]"):
        Storage(url)


def test_a_storage_that_cannot_be_written_is_named(catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "bucket").write_text("a file")
    with pytest.raises(
        ValueError, match=r"bucket/catalog\.json cannot be (read|written): "
    ) as caught:
        Storage(f"file://{tmp_path}/bucket").upload(catalog, "int8", 1)
    assert "\n" not in str(caught.value)
