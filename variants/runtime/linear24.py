"""The portable form of a 2:4 sparse Linear weight: 2 of every 4 weights along the input are stored.

    values   [out, in/2]         the two kept weights of each group of 4, columns ascending
    indices  [out, ceil(in/8)]   UINT8, four 2-bit columns per byte, the first in the lowest bits

Packed FP32 weights take 2.125 bytes each instead of 4. The pattern is that of NVIDIA's sparse
tensor cores (Mishra et al. 2021, arXiv:2104.08378); the file format is specific to this project.
`variants.runtime.kernels.packing` has the layout in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.runtime.patterns import keep_n_of_m
from variants.runtime.stored import require

GROUP = 4
KEPT = 2
_PER_BYTE = 4


def mask24(weight: Tensor) -> Tensor:
    """Return a mask of the 2 weights of largest magnitude in every 4 consecutive weights of a row.

    `weight` is `[out, in]`. The mask is BOOL of the same shape, with exactly two True values per
    group. Of equal magnitudes the leftmost is kept. Raises `ValueError` if `in` is not a multiple
    of 4.
    """
    return keep_n_of_m(weight.abs(), KEPT, GROUP)


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a 2:4 sparse weight `[out, in]` losslessly into `values` and `indices`.

    Raises `ValueError` if a group of 4 has more than 2 nonzero weights.
    """
    groups = _grouped(weight)
    invalid = int(((groups != 0).sum(dim=-1) > KEPT).sum())
    if invalid:
        raise ValueError(f"not 2:4 sparse: {invalid} groups of 4 hold more than 2 non-zeros")
    columns = mask24(weight).reshape(groups.shape).nonzero()[:, -1]
    columns = columns.reshape(*groups.shape[:-1], KEPT)
    values = groups.gather(-1, columns).reshape(len(weight), -1)

    flat = columns.reshape(len(weight), -1).to(torch.uint8)
    flat = F.pad(flat, (0, -flat.shape[1] % _PER_BYTE)).reshape(len(weight), -1, _PER_BYTE)
    indices = sum((flat[..., i] << 2 * i for i in range(_PER_BYTE)), torch.zeros_like(flat[..., 0]))
    return values.contiguous(), indices.contiguous()


def unpack(values: Tensor, indices: Tensor) -> Tensor:
    """Return the packed weight `[out, in]`, zeros included, bit for bit.

    Raises `ValueError` if the tensors are not those of a weight.
    """
    if values.ndim != 2 or values.shape[1] % KEPT:
        raise ValueError(f"expected values [out, in/2], got {list(values.shape)}")
    rows, kept = values.shape
    require("indices", indices, torch.uint8, (rows, -(-kept // _PER_BYTE)))
    columns = torch.stack([indices >> 2 * i & 0b11 for i in range(_PER_BYTE)], dim=-1)
    columns = columns.reshape(rows, -1)[:, :kept].reshape(rows, -1, KEPT).long()
    if bool((columns[..., 0] >= columns[..., 1]).any()):
        raise ValueError("indices must ascend within each group of 4")
    groups = values.new_zeros(rows, kept // KEPT, GROUP)
    return groups.scatter_(-1, columns, values.reshape(rows, -1, KEPT)).reshape(rows, -1)


def _grouped(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        raise ValueError(
            f"2:4 needs [out, in] with `in` a multiple of {GROUP}, got {list(weight.shape)}"
        )
    return weight.reshape(len(weight), -1, GROUP)
