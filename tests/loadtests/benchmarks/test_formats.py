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
    Format,
    Pattern,
    computable,
    formats,
    measure,
    patterns,
    rows,
)
from variants.catalog.catalog import BatchLatency, Interval

OUT, INPUTS = 160, 320
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch: a beta feature, says each layout


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return {pattern.name: pattern.weight for pattern in patterns(OUT, INPUTS)}


def test_weights_have_the_zeros_that_they_are_named_for(weights: dict[str, torch.Tensor]) -> None:
    assert len(weights) == 2 * len(SPARSITIES) + 1
    for share in SPARSITIES:
        unstructured = weights[f"unstructured {share:.0%}"]
        assert int((unstructured == 0).sum()) == round(share * OUT * INPUTS)
        blocks = weights[f"blocks of 16 x 16, {share:.0%}"].reshape(OUT // BLOCK, BLOCK, -1, BLOCK)
        held = (blocks != 0).sum(dim=(1, 3))
        assert set(held.flatten().tolist()) == {0, BLOCK * BLOCK}
        assert int((held == 0).sum()) == round(share * held.numel())
    assert ((weights["2:4"].reshape(OUT, -1, 4) != 0).sum(-1) == 2).all()


@pytest.mark.parametrize("name", ["unstructured 90%", "blocks of 16 x 16, 80%", "2:4"])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_format_computes_the_same_product(
    name: str, batch: int, weights: dict[str, torch.Tensor]
) -> None:
    weight = weights[name]
    samples = np.random.default_rng(0).standard_normal((batch, INPUTS), dtype=np.float32)
    able, _ = computable(formats(weight), INPUTS)
    assert {"CSR", "CSC", "BSR 4 x 4", "BSR 16 x 16", "dense with mask, onnxruntime"} < set(able)
    assert ("packed 2:4, unpacked at load" in able) == (name == "2:4")
    for kind, form in able.items():
        product = form.load()(samples)
        assert product.flags.c_contiguous, kind
        if kind not in (DENSE_TORCH, DENSE_ONNX):  # these are for time: weights without zeros
            np.testing.assert_allclose(product, samples @ weight.numpy().T, atol=1e-4, err_msg=kind)


def test_bytes_are_values_and_indices(weights: dict[str, torch.Tensor]) -> None:
    count = OUT * INPUTS
    single = {n: f.size_bytes for n, f in formats(weights["unstructured 90%"]).items()}
    kept = count // 10
    assert single[DENSE_TORCH] == single["dense with mask, torch"] == 4 * count
    assert single["CSR"] == 8 * kept + 4 * (OUT + 1)
    assert single["CSC"] == 8 * kept + 4 * (INPUTS + 1)
    assert single["BSR 16 x 16"] > 4 * count  # every block has something in it

    blocks = {n: f.size_bytes for n, f in formats(weights["blocks of 16 x 16, 90%"]).items()}
    held = OUT // BLOCK * INPUTS // BLOCK // 10
    assert blocks["BSR 16 x 16"] == held * (4 * BLOCK**2 + 4) + 4 * (OUT // BLOCK + 1)

    packed = {n: f.size_bytes for n, f in formats(weights["2:4"]).items()}
    assert packed["packed 2:4, unpacked at load"] == count // 2 * 4 + count // 2 // 4


def test_what_torch_cannot_compute_is_said(weights: dict[str, torch.Tensor]) -> None:
    found = formats(weights["2:4"])
    able, reasons = computable(found, INPUTS)
    missing = [name for name in found if name not in able]
    assert missing
    assert [
        reason.partition(": torch cannot compute it here: ")[0] for reason in reasons
    ] == missing
    assert all(reason.partition(" here: ")[2] for reason in reasons)


def test_formats_are_timed_at_every_batch_against_the_faster_dense() -> None:
    pattern = Pattern("2:4", next(p.weight for p in patterns(32, 32) if p.name == "2:4"))
    found = formats(pattern.weight)
    chosen = {name: found[name] for name in (DENSE_TORCH, DENSE_ONNX, "CSR")}
    measured = measure(chosen, 32, seconds=0.01)
    for points in measured.values():
        assert [point.batch_size for point in points] == list(BATCHES)
    for place in range(len(BATCHES)):
        dense = [measured[name][place] for name in (DENSE_TORCH, DENSE_ONNX)]
        assert max(point.speedup.value for point in dense) == 1.0


def test_a_row_says_bytes_and_ratios() -> None:
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

    load = formats(torch.ones(16, 16))[DENSE_TORCH].load
    found = {DENSE_TORCH: Format(4000, load), "CSR": Format(1000, load)}
    measured = dict.fromkeys(found, (point(1, 25e-6), point(64, 0.00125)))
    ratio = "0.50 (0.40 to 0.62)"
    assert rows("2:4", found, measured)[1] == (
        "2:4", "CSR", "1", "25.0%", "25", ratio, "1,250", ratio
    )  # fmt: skip
