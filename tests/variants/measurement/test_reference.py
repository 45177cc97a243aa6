from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.small import datasets
from variants.catalog.catalog import Catalog
from variants.measurement.reference import dense_loaders
from variants.model.dataset import rows


def test_dense_in_torch_is_equivalent_to_dense_as_served(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    loaders = dense_loaders(small_catalog, catalog.model, catalog.variants["dense"], threads=1)
    assert list(loaders) == ["onnx", "torch"]
    few = rows(datasets().test.samples, slice(0, 50))
    served, other = (load()(few)["logits"] for load in loaders.values())
    assert np.abs(served - other).max() < 1e-4 * np.abs(served).max()
    assert not np.array_equal(served, np.zeros_like(served))


def test_a_variant_without_weights_has_only_its_own_runtime(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    int8 = catalog.variants["int8"]
    assert list(dense_loaders(small_catalog, catalog.model, int8, threads=1)) == ["onnx"]


def test_damaged_weights_are_rejected(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    dense = catalog.variants["dense"]
    files = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in dense.files)
    damaged = dense.model_copy(update={"files": files})
    loaders = dense_loaders(small_catalog, catalog.model, damaged, threads=1)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        loaders["torch"]()
