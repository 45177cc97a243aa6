"""Weights and features of the tests, and the products that are expected of them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from variants.runtime.linear24 import mask24

SHAPES24: Final = ((1, 4), (7, 36), (32, 32), (33, 128), (70, 260), (10, 784), (300, 132))
"""`[out, in]`: smaller and larger than a block, multiples and not, one and several chunks."""
SHAPES: Final = (*SHAPES24, (1, 1), (5, 3), (40, 127), (64, 129), (3, 1025))
"""As above, also with `in` that is no multiple of 4."""
ROWS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 33, 48, 64, 70)


def generator(*seed: int) -> torch.Generator:
    """Return a generator seeded by some numbers."""
    return torch.Generator().manual_seed(hash(seed) & 0xFFFF_FFFF)


def dense(out: int, inputs: int) -> Tensor:
    """Return a random weight FP32 `[out, in]`."""
    return torch.randn(out, inputs, generator=generator(out, inputs))


def sparse24(out: int, inputs: int) -> Tensor:
    """Return a weight with at most 2 of 4 weights, and in some groups fewer."""
    weight = dense(out, inputs)
    fewer = torch.rand(out, inputs, generator=generator(inputs, out)) < 0.9
    return weight * mask24(weight) * fewer


def sparse(out: int, inputs: int, zeros: float) -> Tensor:
    """Return a weight with about a share of zeros."""
    kept = torch.rand(out, inputs, generator=generator(out, inputs, 1)) >= zeros
    return dense(out, inputs) * kept


def quantized24(out: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Return a 2:4 sparse weight INT8 `[out, in]`, and its scales FP32 `[out]`."""
    weight = sparse24(out, inputs)
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-9)
    return torch.round(weight / scales[:, None]).to(torch.int8), scales


def features(rows: int, inputs: int) -> Tensor:
    """Return random features FP32 `[rows, in]`."""
    return torch.randn(rows, inputs, generator=generator(rows, inputs, 2))


def assert_product(
    actual: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> None:
    """Compare with the product in FP64; the tolerance is that of FP32 sums in any order."""
    exact = features.double() @ weight.double().T
    magnitude = features.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, magnitude = exact + bias.double(), magnitude + bias.double().abs()
    if activation == "relu":
        exact = exact.relu()
    assert actual.dtype == torch.float32
    assert actual.shape == exact.shape
    unit = torch.finfo(torch.float32).eps
    assert ((actual.double() - exact).abs() <= (4 + weight.shape[1] / 8) * unit * magnitude).all()
