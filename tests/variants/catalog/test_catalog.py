from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.variants.catalog.cards import MODEL, card, catalog, latency
from variants.catalog import artifact
from variants.catalog.catalog import BatchLatency, Catalog


def write(folder: Path) -> Path:
    content = catalog({"dense": (card(),), "int8": (card(),)})
    artifact.write_record(folder / "catalog.json", MODEL)
    for name, variant in content.variants.items():
        (folder / name).mkdir()
        artifact.write_record(folder / name / "variant.json", variant)
    return folder


def test_a_written_catalog_is_read_back(tmp_path: Path) -> None:
    assert Catalog.load(write(tmp_path)) == catalog({"dense": (card(),), "int8": (card(),)})


def test_a_catalog_with_an_older_schema_is_rejected(tmp_path: Path) -> None:
    folder = write(tmp_path)
    old = json.loads((folder / "catalog.json").read_text()) | {"schema_version": 1}
    (folder / "catalog.json").write_text(json.dumps(old))
    with pytest.raises(
        ValueError, match=r"catalog\.json: .* has schema 1, .* reads schema 2: rebuild it"
    ):
        Catalog.load(folder)


def test_a_folder_without_a_catalog_is_rejected_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no catalog\.json; run `make build`"):
        Catalog.load(tmp_path)


def test_an_invalid_record_raises_an_error_with_the_file_name(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "catalog.json").write_text("{}")
    with pytest.raises(ValueError, match=r"catalog\.json: name: is required"):
        Catalog.load(folder)


def test_the_reference_is_the_fastest_runtime_of_dense() -> None:
    measured = latency(1, 0.001, dense_p50_s={"onnx": 0.004, "torch": 0.003})
    assert measured.reference == "torch"
    assert BatchLatency.model_validate_json(measured.model_dump_json()) == measured
