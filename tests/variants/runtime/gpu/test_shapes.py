from __future__ import annotations

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT

from variants.runtime.gpu.products import DTYPES
from variants.runtime.gpu.shapes import CUSPARSELT, Arithmetic, padded, why_not


@pytest.mark.parametrize("arithmetic", CUSPARSELT)
def test_the_multiples_are_those_of_torch(arithmetic: Arithmetic) -> None:
    of_torch = SparseSemiStructuredTensorCUSPARSELT._DTYPE_SHAPE_CONSTRAINTS[DTYPES[arithmetic]]
    own = CUSPARSELT[arithmetic]
    assert (own.out, own.columns) == (of_torch.sparse_min_rows, of_torch.sparse_min_cols)
    assert own.rows == of_torch.dense_min_rows == of_torch.dense_min_cols


@pytest.mark.parametrize(
    ("shape", "arithmetic", "reason"),
    [
        ((2048, 784), "bfloat16", ""),
        ((16, 16), "float16", ""),
        ((10, 2048), "bfloat16", "10 outputs are not a multiple of 16"),
        ((2048, 788), "bfloat16", "788 inputs are not a multiple of 16"),
        ((2048, 784), "int8", "784 inputs are not a multiple of 32"),
        ((2048, 2048), "int8", ""),
    ],
)
def test_a_shape_is_eligible_or_the_reason_is_stated(
    shape: tuple[int, int], arithmetic: Arithmetic, reason: str
) -> None:
    assert why_not(shape, CUSPARSELT[arithmetic]) == reason


@pytest.mark.parametrize(
    ("rows", "multiple", "least", "expected"),
    [(1, 8, 0, 8), (8, 8, 0, 8), (9, 8, 0, 16), (3, 8, 64, 64), (65, 8, 64, 72), (1, 16, 0, 16)],
)
def test_rows_are_padded(rows: int, multiple: int, least: int, expected: int) -> None:
    assert padded(rows, multiple, least) == expected


def test_torch_refuses_a_sparse_weight_outside_of_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="Only CUDA tensors"):
        torch.sparse.to_sparse_semi_structured(torch.zeros(32, 32, dtype=torch.float16))
