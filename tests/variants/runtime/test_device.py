"""Every runtime on every device, with the real libraries of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.variants.runtime.gpu.needs_gpu import NEEDS_GPU, WITHOUT_GPU
from variants.catalog.catalog import Catalog
from variants.catalog.device import DEVICES, Device, gpu_names, is_gpu
from variants.catalog.zero_inputs import zero_batch
from variants.runtime.runner import load_runner, measure_kernels

GPUS = [device for device in DEVICES if is_gpu(device)]


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
@pytest.mark.parametrize("device", GPUS)
def test_no_variant_is_loaded_onto_a_gpu_that_is_not_there(
    small_catalog: Path, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    catalog = Catalog.load(small_catalog)
    assert {variant.runner for variant in catalog.variants.values()} == {"onnx", "torch"}
    for variant in catalog.variants.values():
        with pytest.raises(ValueError, match=f"the device `({device}|cuda)` .*"):
            load_runner(small_catalog, catalog.model, variant, threads=1, device=device)


@WITHOUT_GPU
def test_kernels_are_not_measured_on_a_gpu_that_is_not_there(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    variant = catalog.variants["sparse-2:4"]
    with pytest.raises(ValueError, match="`cuda` cannot be used"):
        measure_kernels(small_catalog, catalog.model, variant, threads=1, device="cuda")


@NEEDS_GPU
@pytest.mark.parametrize("device", GPUS)
def test_outputs_on_a_gpu_are_those_of_the_cpu(small_catalog: Path, device: Device) -> None:
    catalog = Catalog.load(small_catalog)
    batch = {
        name: np.random.default_rng(0).random(array.shape).astype(array.dtype)
        for name, array in zero_batch(catalog.model, 8).items()
    }
    for variant in catalog.variants.values():
        expected, actual = (
            load_runner(small_catalog, catalog.model, variant, threads=1, device=each)(batch)
            for each in ("cpu", device)
        )
        for name, output in expected.items():
            np.testing.assert_allclose(actual[name], output, rtol=0.05, atol=0.05)
