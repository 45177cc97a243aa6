from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.variants.runtime.gpu.needs_gpu import NEEDS_GPU, WITHOUT_GPU
from tests.variants.runtime.sparse.layers import chosen, sparse_linear, weights_of
from variants.catalog.kernels import DENSE, KernelTable
from variants.runtime.gpu.device import require_cuda
from variants.runtime.gpu.layer import SPARSE
from variants.runtime.gpu.network import mismatch, use_gpu
from variants.runtime.sparse.dispatch import DispatchedLayer

GPU = "NVIDIA H200, cuSPARSELt 702"
LINEAR = sparse_linear("linear-2:4", 64, 32)
WEIGHTS = weights_of(LINEAR, "linear-2:4")
LAYERS = {"0": DispatchedLayer(WEIGHTS)}
TABLE = KernelTable(instruction_set=GPU, layers={"0": chosen(WEIGHTS, (1, DENSE))})


def with_layer(**changes: object) -> KernelTable:
    return TABLE.model_copy(update={"layers": {"0": TABLE.layers["0"].model_copy(update=changes)}})


def test_a_table_that_fits_is_used() -> None:
    assert mismatch(TABLE, LAYERS, GPU) == ""


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (TABLE.model_copy(update={"instruction_set": "avx2"}), f"for avx2, and this is {GPU}"),
        (TABLE.model_copy(update={"layers": {}}), "no layer 0"),
        (with_layer(shape=(64, 64)), "not (32, 64)"),
        (with_layer(kind="linear-sparse"), "as linear-sparse"),
        (
            TABLE.model_copy(update={"layers": {"0": chosen(WEIGHTS, (1, "rows"))}}),
            "unknown kernel rows",
        ),
        (
            TABLE.model_copy(update={"layers": {"0": chosen(WEIGHTS, (1, SPARSE))}}),
            "unknown kernel 2:4",
        ),
    ],
    ids=["other GPU", "other layers", "other shape", "other form", "CPU kernel", "no algorithm"],
)
def test_a_table_of_another_gpu_network_or_library_is_not_used(
    table: KernelTable, reason: str
) -> None:
    assert reason in mismatch(table, LAYERS, GPU)


@WITHOUT_GPU
def test_without_a_gpu_the_message_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"`cuda` cannot be used: torch .*; or use the device"):
        require_cuda()


@NEEDS_GPU
def test_a_network_on_the_gpu_computes_what_it_computes_on_the_cpu() -> None:
    network = nn.Sequential(LINEAR, nn.ReLU(), nn.Linear(32, 10)).eval()
    x = torch.randn(64, 64)
    expected = network(x)
    fused = {"0": replace(LAYERS["0"], weights=weights_of(LINEAR, "linear-2:4", "relu"))}
    use_gpu(network, fused, None)
    torch.testing.assert_close(network(x.cuda()).cpu(), expected, rtol=2e-2, atol=2e-2)
