"""The rule on given times; the timing itself needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.variants.runtime.gpu.needs_gpu import NEEDS_GPU
from tests.variants.runtime.sparse.layers import sparse_linear, weights_of
from variants.catalog.kernels import DENSE
from variants.runtime.gpu.algorithms import AlgorithmCache
from variants.runtime.gpu.dispatch import SPARSE_GAIN, Times, choose, measure_layers
from variants.runtime.gpu.layer import SPARSE
from variants.runtime.sparse.dispatch import DispatchedLayer

HALF = "dense bfloat16"
LAYER = DispatchedLayer(weights_of(sparse_linear("linear-2:4", 64, 32), "linear-2:4"), 4)


def times(dense: float, half: float, sparse: float) -> Times:
    return {DENSE: dense, HALF: half, SPARSE: sparse}


def test_the_sparse_product_is_chosen_only_where_it_is_faster_than_every_dense_one() -> None:
    measured = {
        4: times(dense=5e-6, half=9e-6, sparse=9e-6),
        64: times(dense=20e-6, half=9e-6, sparse=10e-6),
        256: times(dense=80e-6, half=30e-6, sparse=20e-6),
    }
    chosen = choose(LAYER, measured, {4: 1, 64: 2, 256: 3})
    assert [(c.rows, c.kernel, c.algorithm) for c in chosen.choices] == [
        (4, DENSE, None),
        (64, HALF, None),
        (256, SPARSE, 3),
    ]
    assert chosen.choices[-1].speedup == pytest.approx(1.5), "over the fastest dense product"
    assert all(choice.seconds <= choice.dense_s for choice in chosen.choices)
    assert (chosen.reason, chosen.rows_per_sample, chosen.shape) == ("", 4, (32, 64))


def test_a_gain_within_the_noise_counts_as_none() -> None:
    gain = 1 + (SPARSE_GAIN - 1) / 2
    chosen = choose(LAYER, {4: times(1e-3, 1e-3, 1e-3 / gain)}, {4: 1})
    assert chosen.choices[0].kernel == DENSE
    assert chosen.reason == "the sparse product is not faster: at best 1.01 times as fast"


def test_a_layer_without_a_sparse_product_states_the_reason() -> None:
    chosen = choose(LAYER, {4: {DENSE: 2e-6, HALF: 1e-6}}, {}, "10 outputs are too few")
    assert (chosen.choices[0].kernel, chosen.reason) == (HALF, "10 outputs are too few")


@NEEDS_GPU
def test_no_layer_is_slower_than_its_dense_twin(tmp_path: Path) -> None:
    cache = AlgorithmCache(tmp_path / "algorithms.json")
    weights = weights_of(sparse_linear("linear-2:4", 1024, 1024), "linear-2:4")
    layers = {"a": DispatchedLayer(weights), "b": DispatchedLayer(weights)}
    table = measure_layers(layers, torch.device("cuda"), batch_sizes=(1, 64), cache=cache)
    assert table.instruction_set.startswith(torch.cuda.get_device_name())
    assert table.layers["a"] == table.layers["b"]
    for choice in table.layers["a"].choices:
        assert choice.seconds <= choice.dense_s
