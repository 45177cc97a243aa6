"""A Linear layer whose weights are 2:4 sparse: of every 4 along the input, 2 are stored.

    values   [out, in/2]         the two kept weights of each group of 4, columns ascending
    indices  [out, ceil(in/8)]   UINT8, four 2-bit columns to a byte, the first in the lowest bits

FP32 weights take 2.125 bytes each in this form instead of 4. The pattern is the one NVIDIA's
sparse tensor cores take (Mishra et al. 2021, arXiv:2104.08378); the file format is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.runtime.patterns import keep_n_of_m

GROUP = 4
KEPT = 2
_PER_BYTE = 4


def mask24(weight: Tensor) -> Tensor:
    """Mark the 2 largest by magnitude of every 4 consecutive weights of a row.

    `weight` is `[out, in]`; the result is BOOL of the same shape, True exactly twice in each
    group. Of equal magnitudes the one further left is kept. Raises `ValueError` if `in` is not a
    multiple of 4.
    """
    return keep_n_of_m(weight.abs(), KEPT, GROUP)


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a 2:4 weight `[out, in]` into `values` and `indices`; nothing of it is lost.

    Raises `ValueError` if a group of 4 has more than 2 weights that are not zero.
    """
    groups = _grouped(weight)
    crowded = int(((groups != 0).sum(dim=-1) > KEPT).sum())
    if crowded:
        raise ValueError(f"not 2:4 sparse: {crowded} groups of 4 hold more than 2 non-zeros")
    columns = mask24(weight).reshape(groups.shape).nonzero()[:, -1]
    columns = columns.reshape(*groups.shape[:-1], KEPT)
    values = groups.gather(-1, columns).reshape(len(weight), -1)

    flat = columns.reshape(len(weight), -1).to(torch.uint8)
    flat = F.pad(flat, (0, -flat.shape[1] % _PER_BYTE)).reshape(len(weight), -1, _PER_BYTE)
    indices = sum((flat[..., i] << 2 * i for i in range(_PER_BYTE)), torch.zeros_like(flat[..., 0]))
    return values.contiguous(), indices.contiguous()


def unpack(values: Tensor, indices: Tensor) -> Tensor:
    """Return the `[out, in]` weight that was packed, zeros included, bit for bit."""
    rows, kept = values.shape
    columns = torch.stack([indices >> 2 * i & 0b11 for i in range(_PER_BYTE)], dim=-1)
    columns = columns.reshape(rows, -1)[:, :kept].reshape(rows, -1, KEPT).long()
    groups = torch.zeros(rows, kept // KEPT, GROUP, dtype=values.dtype)
    return groups.scatter_(-1, columns, values.reshape(rows, -1, KEPT)).reshape(rows, -1)


class Linear24(nn.Module):
    """Computes what `nn.Linear` with the unpacked weight computes; holds and stores it packed.

    The weight is unpacked once, on construction, and the product runs dense: correct, not fast,
    and it costs the dense weight's memory on top.
    """

    values: Tensor
    indices: Tensor
    bias: Tensor | None
    weight: Tensor

    def __init__(self, values: Tensor, indices: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("indices", indices)
        self.register_buffer("bias", bias)
        self.register_buffer("weight", unpack(values, indices), persistent=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Linear24:
        """Pack a Linear whose weight is already 2:4 sparse."""
        bias = None if linear.bias is None else linear.bias.detach()
        return cls(*pack(linear.weight.detach()), bias)

    def forward(self, features: Tensor) -> Tensor:
        """FP32 `[..., in]` to `[..., out]`."""
        return F.linear(features, self.weight, self.bias)


def _grouped(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        raise ValueError(
            f"2:4 needs [out, in] with `in` a multiple of {GROUP}, got {list(weight.shape)}"
        )
    return weight.reshape(len(weight), -1, GROUP)
