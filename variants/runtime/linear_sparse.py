"""The portable form of a Linear weight with zeros anywhere: only the other weights are stored.

    values   [n]        the weights that are not zero, row after row, columns ascending
    offsets  [n]        UINT16, the column of each value
    starts   [out + 1]  INT32, index of the first value of each row, and n

An FP32 weight takes 6 bytes instead of 4, so the form is smaller than a dense one from a third of
zeros on. The form is that of compressed sparse rows (CSR) with short indices.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from variants.runtime.stored import require

MAX_COLUMNS: Final = 1 << 16
"""Largest number of inputs of a layer whose columns fit 16 bits."""


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pack a weight `[out, in]` losslessly into `values`, `offsets` and `starts`.

    Raises `ValueError` if there are more inputs than `MAX_COLUMNS`.
    """
    if weight.ndim != 2 or weight.shape[1] > MAX_COLUMNS:
        raise ValueError(
            f"the sparse form needs [out, in] with at most {MAX_COLUMNS:,} inputs, "
            f"got {list(weight.shape)}"
        )
    kept = weight != 0
    starts = torch.zeros(len(weight) + 1, dtype=torch.int32, device="cpu")
    starts[1:] = kept.sum(dim=1).cumsum(0)
    return weight[kept].contiguous(), kept.nonzero()[:, 1].to(torch.uint16), starts


def unpack(values: Tensor, offsets: Tensor, starts: Tensor, columns: int) -> Tensor:
    """Return the packed weight `[out, columns]`, zeros included.

    Raises `ValueError` if the tensors do not describe a weight of this width.
    """
    require("starts", starts, torch.int32, (starts.numel(),))
    require("values", values, torch.float32, (values.numel(),))
    require("offsets", offsets, torch.uint16, (len(values),))
    message = f"values, offsets and starts do not describe a weight of {columns} inputs"
    counts = starts.long().diff()
    if (
        len(starts) < 2
        or int(starts[0]) != 0
        or int(starts[-1]) != len(values)
        or bool((counts < 0).any())
    ):
        raise ValueError(message)
    indices = offsets.long()
    rows = torch.arange(len(counts), device="cpu").repeat_interleave(counts)
    ascend = (indices.diff() > 0) | (rows.diff() > 0)
    if not bool(ascend.all()) or bool((indices >= columns).any()):
        raise ValueError(message)
    weight = values.new_zeros(len(counts), columns)
    weight[rows, indices] = values
    return weight
