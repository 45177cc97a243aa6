"""Products of one Linear layer on a GPU, dense and 2:4 sparse. All map FP32 to FP32.

    features FP32 [rows, in] ─▶ operands, padded rows ─▶ product ─▶ outputs FP32 [rows, out]

16-bit operands are rounded. INT8 operands are codes: -127 to 127 with a scale for each output and
for each row, by the row's largest magnitude. Dense and sparse INT8 products sum the same integers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.runtime.gpu.shapes import (
    CUSPARSELT,
    INT8_DENSE,
    INT8_DENSE_ROWS,
    Arithmetic,
    padded,
)
from variants.runtime.sparse.forms import MAX_CODE

Product: TypeAlias = Callable[[Tensor, Tensor | None, str], Tensor]
"""Maps features FP32 `[rows, in]`, a bias FP32 `[out]` and an activation to FP32 `[rows, out]`."""

DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def compress(weight: Tensor) -> Tensor:
    """Return a 2:4 sparse weight on the GPU in the form of cuSPARSELt.

    The form depends on the version of the library, so it is never stored. Raises `RuntimeError` if
    cuSPARSELt does not accept the weight.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its interface a prototype
        compressed = torch.sparse.to_sparse_semi_structured(weight).packed
    assert compressed is not None
    return compressed


def search_algorithm(compressed: Tensor, arithmetic: Arithmetic, columns: int, rows: int) -> int:
    """Return the algorithm of cuSPARSELt that is fastest for a number of padded rows.

    The library runs all of them.
    """
    dtype = DTYPES[arithmetic]
    features = (32 * torch.randn(rows, columns, device=compressed.device)).to(dtype)
    out_dtype = torch.int32 if arithmetic == "int8" else None
    return int(
        torch._cslt_sparse_mm_search(
            compressed, features.t(), out_dtype=out_dtype, transpose_result=True
        )
    )


def dense(weight: Tensor) -> Product:
    """Return torch's product with a weight FP32 `[out, in]`, on any device."""

    def compute(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        return _activate(F.linear(features, weight, bias), activation)

    return compute


def dense_16(weight: Tensor) -> Product:
    """Return torch's product with a weight FP16 or BF16 `[out, in]`, on any device."""

    def compute(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        product = F.linear(features.to(weight.dtype), weight).float()
        return _activate(product if bias is None else product + bias, activation)

    return compute


def sparse_16(compressed: Tensor, dtype: torch.dtype, algorithm: int, least: int = 0) -> Product:
    """Return the product of cuSPARSELt with a compressed weight FP16 or BF16.

    Features are padded to at least `least` rows: those for which the algorithm was searched.
    """
    multiple = CUSPARSELT["float16"].rows

    def compute(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        operand = _pad(features.to(dtype), padded(len(features), multiple, least))
        product = torch._cslt_sparse_mm(
            compressed, operand.t(), transpose_result=True, alg_id=algorithm
        )
        result = product[: len(features)].float()
        return _activate(result if bias is None else result + bias, activation)

    return compute


def dense_int8(codes: Tensor, scales: Tensor) -> Product:
    """Return the product with a weight of INT8 codes `[out, in]` and FP32 scales `[out]`."""

    def integers(operand: Tensor) -> Tensor:
        rows = padded(len(operand), INT8_DENSE.rows, INT8_DENSE_ROWS)
        return torch._int_mm(_pad(operand, rows), codes.t())

    return _int8(integers, scales)


def sparse_int8(compressed: Tensor, scales: Tensor, algorithm: int, least: int = 0) -> Product:
    """Return the product of cuSPARSELt with a compressed weight of INT8 codes; see `sparse_16`."""
    multiple = CUSPARSELT["int8"].rows

    def integers(operand: Tensor) -> Tensor:
        return torch._cslt_sparse_mm(
            compressed,
            _pad(operand, padded(len(operand), multiple, least)).t(),
            out_dtype=torch.int32,
            transpose_result=True,
            alg_id=algorithm,
        )

    return _int8(integers, scales)


def quantize_rows(features: Tensor) -> tuple[Tensor, Tensor]:
    """Round features FP32 `[rows, in]` to INT8; return codes and FP32 scales `[rows, 1]`.

    The scale of a row with a NaN or an infinity is not finite, so that its outputs are not either.
    """
    scales = features.abs().amax(dim=1, keepdim=True) / MAX_CODE
    divisors = torch.where(scales == 0, 1.0, scales)
    codes = (features / divisors).round().nan_to_num(nan=0.0).clamp(-MAX_CODE, MAX_CODE)
    return codes.to(torch.int8), divisors


def _int8(integers: Callable[[Tensor], Tensor], scales: Tensor) -> Product:
    def compute(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        codes, row_scales = quantize_rows(features)
        product = integers(codes)[: len(features)].float() * row_scales * scales
        return _activate(product if bias is None else product + bias, activation)

    return compute


def _pad(features: Tensor, rows: int) -> Tensor:
    """Return the features with rows of zeros below."""
    missing = rows - len(features)
    return F.pad(features, (0, 0, 0, missing)) if missing else features


def _activate(product: Tensor, activation: str) -> Tensor:
    return product.relu_() if activation == "relu" else product
