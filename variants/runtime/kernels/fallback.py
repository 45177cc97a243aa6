"""The operators in torch, for machines without the compiled library. Slow: they unpack each time.

They take what `operators` takes, and define what the compiled kernels compute: the same up to the
order of FP32 sums, and with INT8 weights the same integers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 127
"""Largest quantized feature. Two products of it with INT8 weights fit 16 bits: 32,258."""


def linear24(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str,
) -> Tensor:
    """Multiply by a weight of `pack24`."""
    shifts = 2 * torch.arange(16, device="cpu").reshape(8, 2, 1)
    columns = (indices[:, :, None, None].long() >> shifts & 3).reshape(values.shape)
    weight = _unpack24(values.permute(0, 3, 1, 2), columns.permute(0, 3, 1, 2))
    return _activate(_linear(features, weight[:out_features], bias), activation)


def linear24_int8(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """Multiply by a weight of `pack24_int8`. Features are quantized as in `quantize`."""
    blocks, chunks, steps, block, slots = values.shape
    shifts = 2 * torch.arange(steps, device="cpu").reshape(steps, 1, 1)
    columns = indices[:, :, None].long() >> shifts & 3
    weight = _unpack24(
        *(
            each.permute(0, 3, 1, 2, 4).reshape(blocks, block, chunks * steps * slots // 2, 2)
            for each in (values, columns)
        )
    )[: len(scales)]
    return _linear_int8(features, weight, scales, sums, bias, activation)


def linear_packed_int8(
    features: Tensor,
    values: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """Multiply by a weight of `pack_dense_int8`. Features are quantized as in `quantize`."""
    weight = values.transpose(1, 2).flatten(2).flatten(0, 1)[: len(scales)]
    return _linear_int8(features, weight, scales, sums, bias, activation)


def _linear_int8(
    features: Tensor,
    weight: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    quantized, steps_of_rows, zeros = quantize(features)
    # Products and sums are integers below 2**31, which FP64 represents.
    sums_of_products = _linear(quantized.double(), weight.double(), None)
    exact = (sums_of_products - zeros[:, None].double() * sums.double()).float()
    result = (exact * scales) * steps_of_rows[:, None]
    return _activate(result if bias is None else result + bias, activation)


def quantize(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize each row of FP32 `[rows, in]` to 0..127.

    Returns `(quantized INT32 [rows, in], steps FP32 [rows], zeros INT32 [rows])`: a feature is
    about `(quantized - zero) * step`. The range of a row includes 0. The step of a row with a NaN
    or an infinity is NaN.
    """
    finite = features.isfinite().all(dim=1)
    usable = torch.where(finite[:, None], features, 0.0)
    usable = F.pad(usable, (0, 1))  # the range includes 0
    low, high = usable.amin(dim=1), usable.amax(dim=1)
    steps = ((high.double() - low.double()) / LEVELS).float()
    divisors = torch.where(steps == 0, torch.inf, steps)
    zeros = torch.round(-low / divisors)
    quantized = (torch.round(usable[:, :-1] / divisors[:, None]) + zeros[:, None]).clamp(0, LEVELS)
    return quantized.int(), torch.where(finite, steps, torch.nan), zeros.int()


def linear_sparse(
    features: Tensor,
    values: Tensor,
    offsets: Tensor,
    starts: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """Multiply by a weight of `pack_sparse`."""
    counts = (starts[:, -1] - starts[:, 0]).long()
    rows = torch.repeat_interleave(torch.arange(len(starts), device="cpu"), counts)
    weight = features.new_zeros(len(starts), features.shape[1])
    weight[rows, offsets.long() & 0xFFFF] = values
    return _activate(_linear(features, weight, bias), activation)


def linear_packed(
    features: Tensor, weight: Tensor, bias: Tensor | None, out_features: int, activation: str
) -> Tensor:
    """Multiply by a weight of `pack_dense`."""
    dense = weight.transpose(1, 2).flatten(0, 1)[:out_features]
    return _activate(_linear(features, dense, bias), activation)


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(F.pad(features, (0, weight.shape[1] - features.shape[1])), weight, bias)


def _unpack24(values: Tensor, columns: Tensor) -> Tensor:
    """Return the weight `[out, in]` of kept weights and columns, `[blocks, BLOCK, groups, 2]`."""
    blocks, block, groups, _ = values.shape
    weight = values.new_zeros(blocks, block, groups, 4)
    return weight.scatter_(-1, columns, values).reshape(blocks * block, groups * 4)


def _activate(result: Tensor, activation: str) -> Tensor:
    return torch.relu(result) if activation == "relu" else result
