"""The shapes that the products of a GPU accept.

cuSPARSELt in torch requires multiples of the sizes of its tiles (`_DTYPE_SHAPE_CONSTRAINTS` of
`torch.sparse.SparseSemiStructuredTensorCUSPARSELT`). Rows of features are padded, weights are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

Arithmetic: TypeAlias = Literal["float16", "bfloat16", "int8"]
"""The type of the operands of a product. Sums have 32 bits."""


class Multiples(NamedTuple):
    """The sizes of which the shapes of a sparse product must be multiples."""

    out: int
    columns: int
    rows: int


CUSPARSELT: Final[Mapping[Arithmetic, Multiples]] = {
    "float16": Multiples(16, 16, 8),
    "bfloat16": Multiples(16, 16, 8),
    "int8": Multiples(32, 32, 16),
}

INT8_DENSE: Final = Multiples(8, 8, 8)
"""For `torch._int_mm`, which also needs `INT8_DENSE_ROWS`."""
INT8_DENSE_ROWS: Final = 24
"""Least number of rows of `torch._int_mm`, which refuses 16 and fewer."""


def why_not(shape: tuple[int, int], multiples: Multiples) -> str:
    """Return why a product does not accept a weight of the shape `[out, in]`; "" if it does."""
    for size, multiple, name in zip(shape, multiples, ("outputs", "inputs"), strict=False):
        if size < multiple or size % multiple:
            return f"{size:,} {name} are not a multiple of {multiple}"
    return ""


def padded(rows: int, multiple: int, least: int = 0) -> int:
    """Return the number of rows that a product gets for this number of rows."""
    return max(least, -(-rows // multiple) * multiple)
