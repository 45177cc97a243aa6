from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.small import datasets
from variants.catalog.catalog import Catalog
from variants.measurement.macs import count_macs
from variants.measurement.runner_files import compressed_bytes, runner_files, to_onnx
from variants.model.dataset import rows
from variants.runtime.onnx import OnnxRunner
from variants.runtime.runner import load_runner


def test_runner_files_are_the_files_that_the_runner_reads(small_catalog: Path) -> None:
    variants = Catalog.load(small_catalog).variants
    for name, files in {
        "dense": {"model.onnx"},  # the original weights are not read
        "int8": {"model.onnx"},
        "sparse-2:4": {"plan.json", "weights.safetensors"},
    }.items():
        contents = runner_files(small_catalog, variants[name])
        assert contents.keys() == files
        for file, content in contents.items():
            assert content == (small_catalog / name / file).read_bytes()


def test_compression_reduces_zeros_but_not_noise() -> None:
    noise = np.random.default_rng(0).bytes(50_000)
    half = noise[:25_000] + bytes(25_000)
    assert compressed_bytes({"a": noise}) > 50_000
    assert 25_000 < compressed_bytes({"a": half}) < 26_000
    assert compressed_bytes({"a": noise, "b": half}) == sum(
        len(zlib.compress(content, 6)) for content in (noise, half)
    )


@pytest.mark.parametrize("name", ["int8", "sparse-2:4"])
def test_the_onnx_model_is_equivalent_to_the_runner(small_catalog: Path, name: str) -> None:
    catalog = Catalog.load(small_catalog)
    variant = catalog.variants[name]
    few = rows(datasets().test.samples, slice(0, 3))
    onnx_model = to_onnx(catalog.model, variant, runner_files(small_catalog, variant), few)
    expected = load_runner(small_catalog, catalog.model, variant, threads=1)(few)["logits"]
    assert np.allclose(OnnxRunner(onnx_model, threads=1)(few)["logits"], expected, atol=1e-4)


def test_the_effective_macs_of_a_packed_variant_are_its_kept_weights(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    variant = catalog.variants["sparse-2:4"]
    few = rows(datasets().test.samples, slice(0, 2))
    onnx_model = to_onnx(catalog.model, variant, runner_files(small_catalog, variant), few)
    macs = count_macs(onnx_model, rows(few, slice(0, 1)))
    assert macs is not None
    assert macs.dense == 784 * 64 + 64 * 64 + 64 * 10
    assert macs.effective == 784 * 32 + 64 * 32 + 64 * 10
    onnx.checker.check_model(onnx.load_model_from_string(onnx_model))
