"""Packs the weight of a Linear layer into the layouts that the kernels read.

Outputs are grouped into blocks of `BLOCK`, padded with zeros, and interleaved: the weights of one
column for all outputs of a block are consecutive, so that one vector instruction computes several
outputs. All instruction sets read the same layouts, which exist in memory only.

    dense   FP32 [blocks, in, BLOCK]

    dense with INT8 weights
            values   INT8  [blocks, in/4, BLOCK, 4]     four columns of each output
            scales   FP32  [out]                        step between two quantized weights
            sums     INT32 [out]                        sum of the quantized weights

    2:4     values   FP32  [blocks, in/4, 2, BLOCK]     the two kept weights of each group of 4
            indices  INT32 [blocks, in/32, BLOCK]       their columns in the group, 2 bits each,
                                                        16 per word: groups ascending, in each the
                                                        lower column first, lowest bits first

    2:4 with INT8 weights
            values   INT8  [blocks, in/32, 4, BLOCK, 4] step, output, slot: a step has two groups,
                                                        so its slots are the two kept weights of
                                                        the first, then those of the second
            indices  UINT8 [blocks, in/32, BLOCK, 4]    for each slot the columns of the 4 steps,
                                                        2 bits each, lowest bits first
            scales, sums                                as for dense weights

    sparse  values   FP32  [nonzeros]                   rows ascending, in each the columns
            offsets  INT16 [nonzeros]                   columns; the bits are those of UINT16
            starts   INT32 [out, chunks + 1]            where each chunk of `CHUNK` columns of a
                                                        row starts in `values`, and its end

`in` is padded to a multiple of 32 in the layouts of 2:4 and of INT8. The layout of 2:4 lets one
in-lane permutation select the features of all outputs of a vector.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK: Final = 32
"""Outputs of a block."""
CHUNK: Final = 128
"""Columns of a chunk of a sparse weight."""
PADDING: Final = 32
"""`in` is padded to a multiple of it in the layouts of 2:4 and of INT8."""
MAX_INPUTS_INT8: Final = 1 << 17
"""Largest `in` whose sums of products fit 32 bits: `in * 127 * 127 < 2**31`."""
MAX_INPUTS_SPARSE: Final = 1 << 16
"""Largest `in` whose columns fit 16 bits."""

_GROUP: Final = 4
_KEPT: Final = 2


class Packed24(NamedTuple):
    """A packed 2:4 sparse weight."""

    values: Tensor
    indices: Tensor


class Packed24Int8(NamedTuple):
    """A packed 2:4 sparse weight with 8 bits."""

    values: Tensor
    indices: Tensor
    scales: Tensor
    sums: Tensor


class PackedInt8(NamedTuple):
    """A packed dense weight with 8 bits."""

    values: Tensor
    scales: Tensor
    sums: Tensor


class PackedSparse(NamedTuple):
    """A packed weight with zeros in any place."""

    values: Tensor
    offsets: Tensor
    starts: Tensor


def pack24(weight: Tensor) -> Packed24:
    """Pack a 2:4 sparse weight, FP32 `[out, in]`.

    Raises `ValueError` if `in` is not a multiple of 4, or if a group of 4 has more than 2 nonzero
    weights.
    """
    _check(weight, torch.float32)
    values, columns = _kept(weight)  # [blocks, BLOCK, groups, 2]
    blocks, _, groups, _ = values.shape
    words = columns.reshape(blocks, BLOCK, groups // 8, 16).long()
    shifts = 2 * torch.arange(16, device="cpu")
    bits = (words << shifts).sum(dim=-1)
    signed = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).int()
    return Packed24(
        values.permute(0, 2, 3, 1).contiguous(),
        signed.permute(0, 2, 1).contiguous(),
    )


def pack24_int8(quantized: Tensor, scales: Tensor) -> Packed24Int8:
    """Pack a 2:4 sparse weight of 8 bits, INT8 `[out, in]`, with its scales, FP32 `[out]`.

    Raises `ValueError` for the reasons of `pack24` and of `pack_dense_int8`.
    """
    _check_int8(quantized, scales)
    values, columns = _kept(quantized)
    blocks, _, groups, _ = values.shape
    shape = (blocks, BLOCK, groups // 8, 4, 4)  # block, output, 32 columns, step, slot
    steps = columns.reshape(shape).to(torch.uint8)
    bits = torch.zeros_like(steps[:, :, :, 0])
    for step in range(4):
        bits |= steps[:, :, :, step] << 2 * step
    return Packed24Int8(
        values.reshape(shape).permute(0, 2, 3, 1, 4).contiguous(),
        bits.permute(0, 2, 1, 3).contiguous(),
        scales.contiguous().clone(),
        quantized.sum(dim=1, dtype=torch.int32),
    )


def pack_dense_int8(quantized: Tensor, scales: Tensor) -> PackedInt8:
    """Pack a weight of 8 bits, INT8 `[out, in]`, with its scales, FP32 `[out]`.

    Raises `ValueError` if a weight is -128, and if `in` exceeds `MAX_INPUTS_INT8`.
    """
    _check_int8(quantized, scales)
    out, inputs = quantized.shape
    padded = F.pad(quantized, (0, -inputs % PADDING, 0, -out % BLOCK))
    columns = padded.reshape(len(padded) // BLOCK, BLOCK, padded.shape[1] // 4, 4)
    return PackedInt8(
        columns.transpose(1, 2).contiguous(),
        scales.contiguous().clone(),
        quantized.sum(dim=1, dtype=torch.int32),
    )


def pack_sparse(weight: Tensor) -> PackedSparse:
    """Pack the nonzero weights of FP32 `[out, in]`.

    Raises `ValueError` if `in` exceeds `MAX_INPUTS_SPARSE`.
    """
    _check(weight, torch.float32)
    out, inputs = weight.shape
    if inputs > MAX_INPUTS_SPARSE:
        raise ValueError(f"columns must fit 16 bits; got {inputs} of {MAX_INPUTS_SPARSE} columns")
    rows, columns = (weight != 0).nonzero(as_tuple=True)
    chunks = -(-inputs // CHUNK)
    counts = torch.bincount(rows * chunks + columns // CHUNK, minlength=out * chunks)
    positions = F.pad(counts.cumsum(dim=0), (1, 0))
    first = chunks * torch.arange(out, device="cpu")
    starts = positions[first[:, None] + torch.arange(chunks + 1, device="cpu")]
    if len(rows) >= 1 << 31:
        raise ValueError(f"positions must fit 31 bits; got {len(rows)} nonzero weights")
    signed = torch.where(columns >= 1 << 15, columns - (1 << 16), columns)
    return PackedSparse(weight[rows, columns], signed.to(torch.int16), starts.int())


def pack_dense(weight: Tensor) -> Tensor:
    """Pack a weight FP32 `[out, in]` into FP32 `[blocks, in, BLOCK]`."""
    _check(weight, torch.float32)
    out, inputs = weight.shape
    padded = F.pad(weight, (0, 0, 0, -out % BLOCK))
    return padded.reshape(len(padded) // BLOCK, BLOCK, inputs).transpose(1, 2).contiguous()


def _kept(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two kept weights of each group, and their columns, `[blocks, BLOCK, groups, 2]`.

    A group with fewer than two nonzero weights keeps zeros. Groups are padded to a multiple of 8.
    """
    out, inputs = weight.shape
    if inputs % _GROUP:
        raise ValueError(f"2:4 needs `in` a multiple of {_GROUP}, got {list(weight.shape)}")
    padded = F.pad(weight, (0, -inputs % PADDING, 0, -out % BLOCK))
    groups = padded.reshape(len(padded) // BLOCK, BLOCK, padded.shape[1] // _GROUP, _GROUP)
    nonzero = groups != 0
    invalid = int((nonzero.sum(dim=-1) > _KEPT).sum())
    if invalid:
        raise ValueError(f"not 2:4 sparse: {invalid} groups of 4 hold more than 2 nonzero weights")
    order = nonzero.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
    columns = order[..., :_KEPT].sort(dim=-1).values
    return groups.gather(-1, columns), columns


def _check(weight: Tensor, dtype: torch.dtype) -> None:
    if weight.ndim != 2 or weight.dtype != dtype or weight.device.type != "cpu":
        raise ValueError(
            f"expected a weight [out, in] of {dtype} on the CPU, "
            f"got {list(weight.shape)} of {weight.dtype} on {weight.device}"
        )


def _check_int8(quantized: Tensor, scales: Tensor) -> None:
    _check(quantized, torch.int8)
    out, inputs = quantized.shape
    if inputs > MAX_INPUTS_INT8:
        raise ValueError(f"sums of {inputs} products overflow 32 bits; at most {MAX_INPUTS_INT8}")
    if bool((quantized == -128).any()):
        raise ValueError("quantized weights must be from -127 to 127, got -128")
    if scales.shape != (out,) or scales.dtype != torch.float32:
        raise ValueError(f"expected scales FP32 [{out}], got {scales.dtype} {list(scales.shape)}")
