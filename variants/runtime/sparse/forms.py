"""The forms in which an artifact stores the weight of a sparse Linear layer.

    linear-2:4        values FP32, indices              `variants.runtime.linear24`
    linear-2:4-int8   values INT8, indices, scales FP32 [out]
    linear-sparse     values FP32, offsets, starts      `variants.runtime.linear_sparse`

INT8 weights are `values * scales`, with values -127 to 127 and one scale per output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from variants.runtime import linear24, linear_sparse
from variants.runtime.stored import require

SparseKind: TypeAlias = Literal["linear-2:4", "linear-2:4-int8", "linear-sparse"]

LEAST_ZEROS: Final = 0.7
"""Smallest share of zeros of a weight that is stored as `linear-sparse`."""
MAX_CODE: Final = 127
"""Largest code of an INT8 weight."""


@dataclass(frozen=True)
class Form:
    """One form: the names of its tensors, and the conversions from and to a dense weight."""

    tensors: tuple[str, ...]
    """Suffixes of the tensors in the file."""
    store: Callable[[Tensor], Mapping[str, Tensor]]
    """Maps a dense FP32 weight `[out, in]` to the stored tensors. Raises `ValueError`."""
    restore: Callable[[Mapping[str, Tensor], tuple[int, int]], Tensor]
    """Maps the stored tensors and the shape `[out, in]` to the dense FP32 weight. Raises
    `ValueError` if the tensors do not describe such a weight."""


def sparse_kind(weight: Tensor) -> SparseKind | None:
    """Return the form for an FP32 weight `[out, in]`; None if it has too few zeros.

    A weight with many zeros may also be 2:4 sparse. The form for zeros anywhere is then smaller and
    faster, since that of 2:4 stores half of the weights.
    """
    fits = weight.shape[1] <= linear_sparse.MAX_COLUMNS
    if fits and zero_share(weight) >= LEAST_ZEROS:
        return "linear-sparse"
    return "linear-2:4" if is_2_of_4(weight) else None


def is_2_of_4(weight: Tensor) -> bool:
    """Return whether at most 2 of every 4 consecutive weights of a row are not zero."""
    if weight.shape[1] % linear24.GROUP:
        return False
    groups = weight.reshape(-1, linear24.GROUP)
    return bool(((groups != 0).sum(dim=1) <= linear24.KEPT).all())


def zero_share(weight: Tensor) -> float:
    """Return the share of the weights that are zero, 0 to 1."""
    return 1 - int(torch.count_nonzero(weight)) / max(1, weight.numel())


def dense_reason(weight: Tensor) -> str:
    """Return why a Linear weight `[out, in]` has no sparse form."""
    zeros, columns = zero_share(weight), weight.shape[1]
    if sparse_kind(weight) is not None:
        return "the recipe did not mask it, or the network does not call it"
    if zeros >= LEAST_ZEROS and columns > linear_sparse.MAX_COLUMNS:
        return f"{columns:,} inputs are more than {linear_sparse.MAX_COLUMNS:,}"
    return f"{zeros:.0%} zeros are fewer than {LEAST_ZEROS:.0%} and not 2:4"


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight `[out, in]` to INT8; return codes `[out, in]` and FP32 scales `[out]`."""
    scales = weight.abs().amax(dim=1) / MAX_CODE
    divisors = torch.where(scales > 0, scales, 1.0)
    codes = (weight / divisors[:, None]).round().clamp(-MAX_CODE, MAX_CODE)
    return codes.to(torch.int8), divisors


def restore_codes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the codes of a stored `linear-2:4-int8` weight, INT8 `[out, in]`."""
    return linear24.unpack(tensors["values"], tensors["indices"])


def _store_24(weight: Tensor) -> Mapping[str, Tensor]:
    values, indices = linear24.pack(weight)
    return {"values": values, "indices": indices}


def _restore_24(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    require("values", tensors["values"], torch.float32, _shape_of_values(shape))
    return linear24.unpack(tensors["values"], tensors["indices"])


def _store_24_int8(weight: Tensor) -> Mapping[str, Tensor]:
    codes, scales = quantize(weight)
    values, indices = linear24.pack(codes)
    return {"values": values, "indices": indices, "scales": scales}


def _restore_24_int8(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    values, scales = tensors["values"], tensors["scales"]
    require("values", values, torch.int8, _shape_of_values(shape))
    require("scales", scales, torch.float32, shape[:1])
    if not bool((scales.isfinite() & (scales > 0)).all()):
        raise ValueError("scales must be finite and positive")
    if bool((values < -MAX_CODE).any()):
        raise ValueError(f"values must be from -{MAX_CODE} to {MAX_CODE}")
    return restore_codes(tensors).float() * scales[:, None]


def _shape_of_values(shape: tuple[int, int]) -> tuple[int, int]:
    out, columns = shape
    if columns % linear24.GROUP:
        raise ValueError(f"2:4 needs a multiple of {linear24.GROUP} inputs, got {columns}")
    return out, columns // linear24.GROUP * linear24.KEPT


def _store_sparse(weight: Tensor) -> Mapping[str, Tensor]:
    values, offsets, starts = linear_sparse.pack(weight)
    return {"values": values, "offsets": offsets, "starts": starts}


def _restore_sparse(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    out, columns = shape
    require("starts", tensors["starts"], torch.int32, (out + 1,))
    return linear_sparse.unpack(tensors["values"], tensors["offsets"], tensors["starts"], columns)


FORMS: Final[Mapping[SparseKind, Form]] = {
    "linear-2:4": Form(("values", "indices"), _store_24, _restore_24),
    "linear-2:4-int8": Form(("values", "indices", "scales"), _store_24_int8, _restore_24_int8),
    "linear-sparse": Form(("values", "offsets", "starts"), _store_sparse, _restore_sparse),
}
