"""Sparse layers and tables for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from variants.catalog.kernels import KernelChoice, LayerKernels
from variants.runtime.linear24 import mask24
from variants.runtime.sparse.forms import FORMS, SparseKind, zero_share
from variants.runtime.sparse.linear import LayerWeights


def sparse_linear(
    kind: SparseKind, inputs: int = 40, out: int = 33, *, bias: bool = True
) -> nn.Linear:
    """Return a Linear layer whose weight has the pattern of the form."""
    linear = nn.Linear(inputs, out, bias=bias)
    with torch.no_grad():
        if kind == "linear-sparse":
            linear.weight[torch.rand(linear.weight.shape) < 0.8] = 0
        else:
            linear.weight.mul_(mask24(linear.weight))
    return linear


def weights_of(linear: nn.Linear, kind: SparseKind, activation: str = "none") -> LayerWeights:
    """Return what `SparseLinear` is made of."""
    stored = FORMS[kind].store(linear.weight.detach())
    dense: Tensor = FORMS[kind].restore(stored, (linear.out_features, linear.in_features))
    bias = None if linear.bias is None else linear.bias.detach()
    return LayerWeights(kind, dense, bias, activation, stored)


def chosen(weights: LayerWeights, *kernels: tuple[int, str]) -> LayerKernels:
    """Return a table entry with these kernels by number of rows."""
    return LayerKernels(
        kind=weights.kind,
        shape=tuple(weights.weight.shape),
        zeros=zero_share(weights.weight),
        choices=tuple(
            KernelChoice(rows=rows, kernel=kernel, seconds=1e-6, dense_s=2e-6)
            for rows, kernel in kernels
        ),
    )
