from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.small import datasets
from tests.variants.catalog.cards import card, latency
from variants.catalog.catalog import Catalog, Runtime, Variant
from variants.measurement.reference import dense_loaders, slower_runtimes
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


def test_runtimes_that_were_slower_at_every_batch_size_need_not_be_timed_again() -> None:
    def slower(*dense_p50_s: Mapping[Runtime, float], runner: Runtime = "onnx") -> set[str]:
        latencies = (latency(2**i, 1.0, None, each) for i, each in enumerate(dense_p50_s))
        dense = Variant(
            name="dense", recipe=(), runner=runner, files=(), report_cards=(card(0.9, *latencies),)
        )
        return set(slower_runtimes(dense, "cpu-t1"))

    assert slower({"onnx": 1, "torch": 2}, {"onnx": 3, "torch": 4}) == {"torch"}
    assert slower({"onnx": 1, "torch": 2}, {"onnx": 4, "torch": 3}) == set()
    assert slower({"onnx": 1}) == set()
    # What serves dense is always timed.
    assert slower({"onnx": 2, "torch": 1}) == set()
    assert slower({"onnx": 1, "torch": 2}, runner="torch") == set()
    without_card = Variant(name="dense", recipe=(), runner="onnx", files=())
    assert slower_runtimes(without_card, "cpu-t1") == frozenset()


def test_damaged_weights_are_rejected(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    dense = catalog.variants["dense"]
    files = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in dense.files)
    damaged = dense.model_copy(update={"files": files})
    loaders = dense_loaders(small_catalog, catalog.model, damaged, threads=1)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        loaders["torch"]()
