from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import small
from variants.catalog.artifact import RECORD, write_record
from variants.catalog.catalog import Catalog, Variant
from variants.catalog.record import read_record
from variants.model.loading import load_network, load_weights
from variants.runtime.linear24 import mask24
from variants.runtime.runner import load_runner

SAMPLES = small.datasets().test.samples["input"][:64]


@pytest.fixture
def catalog(small_catalog: Path) -> Catalog:
    return Catalog.load(small_catalog)


def test_dense_in_onnxruntime_is_equivalent_to_torch(small_catalog: Path, catalog: Catalog) -> None:
    runner = load_runner(small_catalog, catalog.model, catalog.variants["dense"], threads=1)
    network = load_network(catalog.model.factory)
    load_weights(network, small_catalog / "dense" / "weights.safetensors")
    from tests.variants.tiny import answers

    outputs = runner({"input": SAMPLES})
    np.testing.assert_allclose(outputs["logits"], answers(network, {"input": SAMPLES}), atol=1e-4)


@pytest.mark.parametrize("name", ["dense", "activation-pruned", "sparse-2:4", "int8"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_outputs_of_every_variant_do_not_depend_on_the_batch_size(
    small_catalog: Path, catalog: Catalog, name: str, batch_size: int
) -> None:
    runner = load_runner(small_catalog, catalog.model, catalog.variants[name], threads=1)
    outputs = runner({"input": SAMPLES[:batch_size]})
    assert outputs.keys() == {"logits"}
    assert outputs["logits"].dtype == np.float32
    assert outputs["logits"].shape == (batch_size, 10)
    alone = runner({"input": SAMPLES[:1]})["logits"]
    np.testing.assert_allclose(outputs["logits"][:1], alone, atol=1e-4)


@pytest.mark.parametrize("name", ["dense", "sparse-2:4"])
def test_inputs_may_be_read_only_like_received_messages(
    small_catalog: Path, catalog: Catalog, name: str
) -> None:
    received = np.frombuffer(SAMPLES.tobytes(), dtype=np.float32).reshape(SAMPLES.shape)
    runner = load_runner(small_catalog, catalog.model, catalog.variants[name], threads=1)
    np.testing.assert_array_equal(
        runner({"input": received})["logits"], runner({"input": SAMPLES})["logits"]
    )


def test_the_sparse_variant_has_packed_2_4_weights(small_catalog: Path, catalog: Catalog) -> None:
    import safetensors.torch

    from variants.runtime.linear24 import unpack

    tensors = safetensors.torch.load_file(small_catalog / "sparse-2:4" / "weights.safetensors")
    weight = unpack(tensors["1.values"], tensors["1.indices"])
    assert weight.shape == (64, 784)
    assert ((weight.reshape(-1, 4) != 0).sum(dim=1) <= 2).all()
    assert (weight[~mask24(weight)] == 0).all()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dense", "model.onnx"),
        ("sparse-2:4", "weights.safetensors"),
        ("sparse-2:4", "plan.json"),
    ],
)
def test_a_damaged_file_raises_an_error_with_its_name(
    small_catalog: Path, catalog: Catalog, name: str, file: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for path in (small_catalog / name).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}/{file} is damaged"):
        load_runner(tmp_path, catalog.model, catalog.variants[name], threads=1)


@pytest.mark.parametrize(("name", "file"), [("int8", "model.onnx"), ("sparse-2:4", "plan.json")])
def test_a_variant_that_does_not_list_its_model_is_rejected(
    small_catalog: Path, catalog: Catalog, name: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    record = catalog.variants[name].model_copy(update={"files": ()})
    write_record(tmp_path / name / RECORD, record)
    listed = read_record(Variant, tmp_path / name / RECORD)
    with pytest.raises(ValueError, match=f"the variant lists no {file}"):
        load_runner(tmp_path, catalog.model, listed, threads=1)


@pytest.mark.parametrize(
    "modules",
    [
        "variants.catalog.catalog, variants.catalog.recipe",
        "variants.catalog.artifact, variants.model.dataset",
        "variants.runtime.runner, variants.runtime.onnx",
    ],
)
def test_hosts_of_onnx_variants_do_not_import_torch(modules: str) -> None:
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")
