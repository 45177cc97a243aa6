from __future__ import annotations

import numpy as np
import pytest
import torch

from loadtests.benchmarks.formats import (
    BATCHES,
    BLOCK,
    DENSE_ONNX,
    DENSE_TORCH,
    SPARSITIES,
    WeightFormat,
    measure,
    rows,
    sparse_weights,
    supported_formats,
    weight_formats,
)
from variants.catalog.catalog import BatchLatency, Interval

OUT, INPUTS = 160, 320
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch warns of a beta feature


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return {sparse.name: sparse.weight for sparse in sparse_weights(OUT, INPUTS)}


def test_weights_have_the_zeros_in_their_names(weights: dict[str, torch.Tensor]) -> None:
    assert len(weights) == 2 * len(SPARSITIES) + 1
    for share in SPARSITIES:
        unstructured = weights[f"unstructured {share:.0%}"]
        assert int((unstructured == 0).sum()) == round(share * OUT * INPUTS)
        blocks = weights[f"blocks of 16 x 16, {share:.0%}"].reshape(OUT // BLOCK, BLOCK, -1, BLOCK)
        nonzeros = (blocks != 0).sum(dim=(1, 3))
        assert set(nonzeros.flatten().tolist()) == {0, BLOCK * BLOCK}
        assert int((nonzeros == 0).sum()) == round(share * nonzeros.numel())
    assert ((weights["2:4"].reshape(OUT, -1, 4) != 0).sum(-1) == 2).all()


@pytest.mark.parametrize("name", ["unstructured 90%", "blocks of 16 x 16, 80%", "2:4"])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_format_computes_the_same_product(
    name: str, batch: int, weights: dict[str, torch.Tensor]
) -> None:
    weight = weights[name]
    samples = np.random.default_rng(0).standard_normal((batch, INPUTS), dtype=np.float32)
    supported, _ = supported_formats(weight_formats(weight), INPUTS)
    assert supported.keys() > {
        "CSR", "CSC", "BSR 4 x 4", "BSR 16 x 16", "dense with mask, onnxruntime"
    }  # fmt: skip
    assert ("packed 2:4, unpacked at load" in supported) == (name == "2:4")
    for kind, weight_format in supported.items():
        product = weight_format.load()(samples)
        assert product.flags.c_contiguous, kind
        if kind not in (DENSE_TORCH, DENSE_ONNX):  # those have random weights, for timing only
            np.testing.assert_allclose(product, samples @ weight.numpy().T, atol=1e-4, err_msg=kind)


def sizes(weight: torch.Tensor) -> dict[str, int]:
    return {name: each.size_bytes for name, each in weight_formats(weight).items()}


def test_the_size_includes_values_and_indices(weights: dict[str, torch.Tensor]) -> None:
    count = OUT * INPUTS
    single = sizes(weights["unstructured 90%"])
    kept = count // 10
    assert single[DENSE_TORCH] == single["dense with mask, torch"] == 4 * count
    assert single["CSR"] == 8 * kept + 4 * (OUT + 1)
    assert single["CSC"] == 8 * kept + 4 * (INPUTS + 1)
    assert single["BSR 16 x 16"] > 4 * count  # every block has a nonzero value

    blocks = sizes(weights["blocks of 16 x 16, 90%"])
    kept_blocks = OUT // BLOCK * INPUTS // BLOCK // 10
    assert blocks["BSR 16 x 16"] == kept_blocks * (4 * BLOCK**2 + 4) + 4 * (OUT // BLOCK + 1)

    packed = sizes(weights["2:4"])
    assert packed["packed 2:4, unpacked at load"] == count // 2 * 4 + count // 2 // 4


def test_formats_that_torch_does_not_support_are_listed_with_the_error(
    weights: dict[str, torch.Tensor],
) -> None:
    by_name = weight_formats(weights["2:4"])
    supported, errors = supported_formats(by_name, INPUTS)
    unsupported = [name for name in by_name if name not in supported]
    assert unsupported
    parts = [error.partition(" is not supported by torch here: ") for error in errors]
    assert [name for name, _, _ in parts] == unsupported
    assert all(reason for _, _, reason in parts)


def test_formats_are_timed_at_every_batch_against_the_faster_dense() -> None:
    (weight,) = (sparse.weight for sparse in sparse_weights(32, 32) if sparse.name == "2:4")
    by_name = weight_formats(weight)
    selected = {name: by_name[name] for name in (DENSE_TORCH, DENSE_ONNX, "CSR")}
    latencies = measure(selected, 32, seconds=0.01)
    for points in latencies.values():
        assert [point.batch_size for point in points] == list(BATCHES)
    for index in range(len(BATCHES)):
        dense = [latencies[name][index] for name in (DENSE_TORCH, DENSE_ONNX)]
        assert max(point.speedup.value for point in dense) == 1.0


def test_a_row_has_sizes_latencies_and_speedups() -> None:
    def point(batch: int, p50_s: float) -> BatchLatency:
        speedup = Interval(value=0.5, low=0.4, high=0.625)
        return BatchLatency(
            batch_size=batch,
            p50_s=p50_s,
            p95_s=p50_s,
            p99_s=p50_s,
            speedup=speedup,
            dense_p50_s={"torch": p50_s / 2},
        )

    load = weight_formats(torch.ones(16, 16))[DENSE_TORCH].load
    by_name = {DENSE_TORCH: WeightFormat(4000, load), "CSR": WeightFormat(1000, load)}
    latencies = dict.fromkeys(by_name, (point(1, 25e-6), point(64, 0.00125)))
    speedup = "0.50 (0.40 to 0.62)"
    assert rows("2:4", by_name, latencies)[1] == (
        "2:4", "CSR", "1", "25.0%", "25", speedup, "1,250", speedup
    )  # fmt: skip
