from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.variants.catalog.cards import MODEL, card, catalog, latency
from variants.catalog import artifact
from variants.catalog.catalog import BatchLatency, Catalog


def write(folder: Path) -> Path:
    written = catalog({"dense": (card(),), "int8": (card(),)})
    artifact.write_record(folder / "catalog.json", MODEL)
    for name, variant in written.variants.items():
        (folder / name).mkdir()
        artifact.write_record(folder / name / "variant.json", variant)
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert Catalog.load(write(tmp_path)) == catalog({"dense": (card(),), "int8": (card(),)})


def test_a_catalog_of_before_is_to_be_built_anew(tmp_path: Path) -> None:
    folder = write(tmp_path)
    old = json.loads((folder / "catalog.json").read_text()) | {"schema_version": 1}
    (folder / "catalog.json").write_text(json.dumps(old))
    with pytest.raises(
        ValueError, match=r"catalog\.json: .* of schema 1, .* reads 2: build it anew"
    ):
        Catalog.load(folder)


def test_a_folder_that_is_no_catalog_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no catalog\.json; run `make build`"):
        Catalog.load(tmp_path)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "catalog.json").write_text("{}")
    with pytest.raises(ValueError, match=r"catalog\.json: name: Field required"):
        Catalog.load(folder)


def test_the_reference_is_the_runtime_in_which_dense_is_fastest() -> None:
    one = latency(1, 0.001, dense_p50_s={"onnx": 0.004, "torch": 0.003})
    assert one.reference == "torch"
    assert BatchLatency.model_validate_json(one.model_dump_json()) == one
