"""Hostile catalogs: names that are paths, links that lead outside, and one name in two folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.variants.catalog.cards import MODEL
from variants.catalog import artifact, generations
from variants.catalog.artifact import RECORD, save, write_record
from variants.catalog.catalog import Catalog, Variant
from variants.catalog.storage import Storage

FILES = {"model.onnx": b"the graph", "weights.safetensors": b"the weights"}
HOSTILE = [
    "", ".", "..", "../evil", "../../../evil", "/etc/passwd", "folder/evil", "..\\evil", "a\\b",
    "C:\\evil", "C:evil", "\\\\host\\share", "evil\0.onnx", "evil\n", ".hidden", ".lock", "~", " ",
    "ev\u0131l", "variant.json", "Variant.JSON", "-r", "\u2024\u2024/evil",
]  # fmt: skip


def variant(name: str) -> Variant:
    return Variant(name=name, recipe=(), runner="onnx", files=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalog with dense and int8, beside a folder that is not part of it."""
    catalog = tmp_path / "catalog"
    for name in ("dense", "int8"):
        save(catalog, variant(name), FILES)
    write_record(catalog / "catalog.json", MODEL)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"the graph")
    return catalog


def rewrite(record: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(record.read_text())
    change(content)
    record.write_text(json.dumps(content))


def name_file(record: Path, name: str) -> None:
    rewrite(record, lambda content: content["files"][0].update(name=name))


def refuse(read: Callable[[], object], *parts: str) -> None:
    """Require an error of one line with these parts."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the parts are checked below
        read()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_names_only_plain_files(folder: Path, tmp_path: Path, name: str) -> None:
    record = folder / "int8" / RECORD
    name_file(record, name)
    wanted = (str(record), "files.0.name", ascii(name))
    refuse(lambda: Catalog.load(folder), *wanted)
    refuse(lambda: generations.adopt(folder, "int8", 1), *wanted)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_generation_and_a_copy_of_it_name_only_plain_files(
    folder: Path, tmp_path: Path, name: str
) -> None:
    generations.adopt(folder, "int8", 1)
    storage = Storage(f"file://{tmp_path}/bucket")
    storage.upload(folder, "int8", 1)
    name_file(generations.folder(folder, "int8", 1) / RECORD, name)
    refuse(lambda: generations.verify(folder, "int8", 1), f"int8/1/{RECORD}", ascii(name))
    name_file(tmp_path / "bucket" / "int8" / "1.json", name)
    empty = tmp_path / "empty"
    refuse(lambda: storage.restore(empty, "int8", 1), "bucket/int8/1.json", ascii(name))
    assert [path for path in empty.rglob("*") if path.is_file() and path.suffix != ".lock"] == [
        empty / "catalog.json"
    ]


@pytest.mark.parametrize("sha256", ["../../evil", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_hash_is_a_hash(folder: Path, sha256: str) -> None:
    rewrite(folder / "int8" / RECORD, lambda content: content["files"][0].update(sha256=sha256))
    refuse(lambda: Catalog.load(folder), f"int8/{RECORD}: files.0.sha256")


@pytest.mark.parametrize("name", ["weights.safetensors", "Weights.SafeTensors"])
def test_a_file_is_listed_once(folder: Path, name: str) -> None:
    name_file(folder / "int8" / RECORD, name)
    refuse(lambda: Catalog.load(folder), f"int8/{RECORD}: files: {name}", "list each file once")


def outside(path: Path, target: Path) -> None:
    """Replace a file by a link."""
    path.unlink()
    path.symlink_to(target)


def test_a_link_of_a_file_is_not_followed_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    generations.adopt(folder, "int8", 1)
    secret = tmp_path / "outside" / "secret"
    for place in (folder / "int8", generations.folder(folder, "int8", 1)):
        outside(place / "model.onnx", secret)  # with the content of which the hash is right
        saved = Variant.model_validate_json((place / RECORD).read_bytes())
        refuse(
            lambda place=place, saved=saved: artifact.read_all(place, saved),  # type: ignore[misc]
            str(place / "model.onnx"), str(secret), "replace it by a copy",
        )  # fmt: skip
    refuse(lambda: generations.load(folder, "int8", 1), "int8/1/model.onnx is a link to")
    refuse(lambda: generations.adopt(folder, "int8", 2), "int8/model.onnx is a link to")
    assert ("int8", 2) not in generations.on_disk(folder)


def test_a_link_within_the_folder_is_followed_and_adopted_as_a_file(folder: Path) -> None:
    model = folder / "int8" / "model.onnx"
    model.rename(model.with_name("data"))
    model.symlink_to("data")
    generations.adopt(folder, "int8", 1)
    adopted = generations.folder(folder, "int8", 1) / "model.onnx"
    assert adopted.read_bytes() == b"the graph"
    assert not adopted.is_symlink()


def test_a_link_of_a_folder_is_not_followed_out_of_the_catalog(
    folder: Path, tmp_path: Path
) -> None:
    generations.adopt(folder, "int8", 1)
    moved = tmp_path / "outside" / "int8"
    (folder / "int8").rename(moved)
    (folder / "int8").symlink_to(moved)
    wanted = (str(folder / "int8"), str(moved), "outside the catalog")
    refuse(lambda: Catalog.load(folder), *wanted)
    refuse(lambda: generations.source(folder, "int8"), *wanted)
    kept = folder / generations.GENERATIONS / "int8"
    kept.rename(tmp_path / "outside" / "kept")
    kept.symlink_to(tmp_path / "outside" / "kept")
    refuse(lambda: generations.load(folder, "int8", 1), "outside the catalog")
    draft = folder / artifact.DRAFTS / "build"
    save(draft, variant("int8"), FILES)
    refuse(
        lambda: generations.publish_draft(draft / "int8", folder, "int8", 2), "outside the catalog"
    )
    assert not (tmp_path / "outside" / "kept" / "2").exists()


@pytest.mark.parametrize("name", [f"int8/{RECORD}", "catalog.json"])
def test_a_link_of_a_record_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / name
    path.rename(tmp_path / "outside" / "record")
    path.symlink_to(tmp_path / "outside" / "record")
    refuse(lambda: Catalog.load(folder), f"{path} is a link to")


def test_a_file_that_is_none_is_refused(folder: Path) -> None:
    model = folder / "int8" / "model.onnx"
    model.unlink()
    os.mkfifo(model)
    refuse(lambda: generations.adopt(folder, "int8", 1), f"{model} is not a regular file")
    model.unlink()
    model.symlink_to("model.onnx")
    refuse(lambda: generations.adopt(folder, "int8", 1), f"{model} cannot be read", "loop")


def test_replacing_a_linked_folder_replaces_the_link(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "outside" / "int8"
    (folder / "int8").rename(moved)
    (folder / "int8").symlink_to(moved)
    for _ in range(2):
        save(folder, variant("int8"), {"model.onnx": b"new"})
    assert not (folder / "int8").is_symlink()
    assert (moved / "model.onnx").read_bytes() == b"the graph"
    assert list((folder / artifact.DRAFTS).iterdir()) == []


def test_a_folder_with_another_name_than_its_variant_is_refused(folder: Path) -> None:
    generations.adopt(folder, "int8", 1)
    (folder / "int8").rename(folder / "INT8")
    refuse(lambda: Catalog.load(folder), f"INT8/{RECORD} has the name 'int8'", "'INT8'", "rename")
    refuse(lambda: generations.source(folder, "INT8"), "'int8', not 'INT8'")
    record = generations.folder(folder, "int8", 1) / RECORD
    rewrite(record, lambda content: content.update(name="dense"))
    refuse(lambda: generations.load(folder, "int8", 1), "int8/1 holds the variant 'dense'")


def test_two_folders_with_one_name_are_refused(folder: Path) -> None:
    save(folder, variant("other"), FILES)
    rewrite(folder / "other" / RECORD, lambda content: content.update(name="int8"))
    refuse(lambda: Catalog.load(folder), f"int8/{RECORD} and ", f"other/{RECORD} both have", "int8")


@pytest.mark.parametrize("place", ["initializer", "attribute", "function"])
@pytest.mark.parametrize("location", ["../outside/secret", "/etc/passwd", "data", ""])
def test_a_graph_reads_no_other_file(
    folder: Path, tmp_path: Path, place: str, location: str
) -> None:
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    graph = helper.make_graph(
        [node] if place == "attribute" else [], "g", [], [],
        [tensor] if place == "initializer" else [],
    )  # fmt: skip
    model = helper.make_model(graph)
    if place == "function":
        model.functions.append(helper.make_function("d", "f", [], ["c"], [node], []))
    wanted = ("model.onnx reads its tensor 'w' from the file", ascii(location), "external data")
    saved = save(folder, variant("int8"), {"model.onnx": model.SerializeToString()})
    refuse(lambda: artifact.read_all(folder / "int8", saved), *wanted)
    refuse(lambda: generations.adopt(folder, "int8", 1), *wanted)
    _upload_unchecked(tmp_path / "bucket", folder / "int8")
    storage = Storage(f"file://{tmp_path}/bucket")
    refuse(lambda: storage.restore(tmp_path / "empty", "int8", 1), *wanted)
    assert generations.on_disk(tmp_path / "empty") == frozenset()


def _upload_unchecked(bucket: Path, source: Path) -> None:
    """Write the copies of a variant's files and records as `Storage.upload` does."""
    record = (source / RECORD).read_bytes()
    write_record(_parent(bucket / "catalog.json"), MODEL)
    _parent(bucket / "int8" / "1.json").write_bytes(record)
    for file in Variant.model_validate_json(record).files:
        place = bucket / file.sha256[:2] / file.sha256
        _parent(place).write_bytes((source / file.name).read_bytes())


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_graph_may_have_a_node_with_the_name_of_the_key(folder: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "location")], "g", [], [])
    saved = save(
        folder, variant("int8"), {"model.onnx": helper.make_model(graph).SerializeToString()}
    )
    assert artifact.read_all(folder / "int8", saved)
    damaged = save(folder, variant("int8"), {"model.onnx": b"location\xff"})
    refuse(lambda: artifact.read_all(folder / "int8", damaged), "model.onnx is not an ONNX model")
