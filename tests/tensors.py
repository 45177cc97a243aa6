"""Arrays of the protocol's datatypes: samples and hypothesis strategies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from variants.catalog.datatype import NUMPY

Array = npt.NDArray[Any]

JSON_DATATYPES: Final = sorted(NUMPY.keys() - {"FP16", "BF16"})
"""The datatypes that JSON can represent."""


def array_strategy(
    datatype: str, shapes: st.SearchStrategy[tuple[int, ...]], *, in_json: bool = False
) -> st.SearchStrategy[Array]:
    """Return a strategy for arrays with any values, or with those that JSON can represent."""
    dtype = NUMPY[datatype]
    if datatype == "BF16":
        return arrays.arrays(np.uint16, shapes).map(lambda array: array.view(dtype))
    if datatype == "BYTES":
        elements = st.text(max_size=5).map(str.encode) if in_json else st.binary(max_size=5)
        return arrays.arrays(dtype, shapes, elements=elements, fill=st.nothing())
    if in_json and dtype.kind == "f":
        finite = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        return arrays.arrays(dtype, shapes, elements=finite)
    return arrays.arrays(dtype, shapes)


def named_arrays(
    names: st.SearchStrategy[str],
    datatypes: Collection[str],
    shapes: st.SearchStrategy[tuple[int, ...]],
    *,
    min_size: int = 1,
    in_json: bool = False,
) -> st.SearchStrategy[dict[str, Array]]:
    """Return a strategy for up to three arrays by name."""
    tensors = st.sampled_from(sorted(datatypes)).flatmap(
        lambda datatype: array_strategy(datatype, shapes, in_json=in_json)
    )
    return st.dictionaries(names, tensors, min_size=min_size, max_size=3)


def sample_array(datatype: str, shape: tuple[int, ...]) -> Array:
    """Return an array with values of every kind that the datatype has, always the same."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return np.fromiter((f"é{i}\0".encode() * (i % 3) for i in range(count)), "O").reshape(shape)
    values = np.random.default_rng(0).integers(0, 2**16, count)
    if datatype in ("FP16", "BF16"):
        return values.astype(np.uint16).view(NUMPY[datatype]).reshape(shape)
    return (values % 100 * 1.5).astype(NUMPY[datatype]).reshape(shape)


def assert_equal(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Assert the same names in the same order, and the same datatypes, shapes and values."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        own = actual[name]
        assert own.dtype == array.dtype
        if array.dtype == NUMPY["BF16"]:  # numpy cannot compare its NaN
            own, array = own.view(np.uint16), array.view(np.uint16)
        np.testing.assert_array_equal(own, array, strict=True)
