"""Tensors as JSON: nested or flat lists of numbers, of booleans, or of strings for BYTES.

FP16 and BF16 have no JSON form: requests that send them as JSON are rejected, and responses always
send them as binary. JSON has neither NaN nor infinities: a request that contains them is not valid
JSON, and a response has null in their place; binary keeps them. Strings of BYTES are UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import numpy as np

from serving.errors import InvalidRequest
from serving.protocol.tensor import BINARY_ONLY, MAX_DIMENSIONS, Array
from variants.catalog.datatype import NUMPY

_JSON_TYPES: Final[Mapping[str, set[type]]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "O": {str},
}
_EXPECTED: Final = {
    "b": "booleans; null and strings are not allowed",
    "i": "integers; null and strings are not allowed",
    "u": "integers; null and strings are not allowed",
    "f": "numbers; null and strings are not allowed",
    "O": "strings; null and numbers are not allowed",
}
_OUT_OF_RANGE: Final = "data has a value outside the range of its datatype"
_RAGGED: Final = "data must not be a ragged list"


def from_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Return the tensor with these values. Raises `InvalidRequest`.

    `datatype` and `shape` must have passed `check_datatype` and `check_shape`.
    """
    if datatype in BINARY_ONLY:
        raise InvalidRequest(
            f"{where}: {datatype} cannot be sent as JSON; send the tensor as binary, "
            "after the JSON part, with binary_data_size"
        )
    if not isinstance(data, list):
        raise InvalidRequest(f"{where}: data must be a list of values, nested or flat")
    if data and data[0].__class__ is list:
        data = _flatten(data, shape, where)
    count = math.prod(shape)
    if len(data) != count:
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {count} values, data has {len(data)}"
        )
    dtype = NUMPY[datatype]
    types = set(map(type, data))
    if not types <= _JSON_TYPES[dtype.kind]:
        fault = _RAGGED if list in types else f"data must be {_EXPECTED[dtype.kind]}"
        raise InvalidRequest(f"{where}: {fault}")
    if dtype.kind == "O":
        data = [text.encode() for text in data]
    try:
        with np.errstate(over="ignore"):
            array = np.fromiter(data, dtype, count)
    except OverflowError:
        raise InvalidRequest(f"{where}: {_OUT_OF_RANGE}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"{where}: {_OUT_OF_RANGE}")
    return array.reshape(shape)


def to_json(array: Array, name: str) -> Any:
    """Return the values, flat, in a form that orjson with `OPT_SERIALIZE_NUMPY` can write.

    The datatype must not be in `BINARY_ONLY`. Raises `InvalidRequest` if BYTES are not UTF-8.
    """
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output {name!r} has bytes that are not UTF-8, which JSON cannot represent; "
            "request this output with the parameter binary_data set to true"
        ) from None


def _flatten(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    """Return the values of nested data. Raises `InvalidRequest` if the nesting is not the shape.

    It works level by level and not list by list, because a body may hold millions of lists.
    """
    nesting: list[int] = []
    first: Any = data
    while first.__class__ is list:
        if len(nesting) == MAX_DIMENSIONS:
            raise InvalidRequest(f"{where}: data may be nested at most {MAX_DIMENSIONS} deep")
        nesting.append(len(first))
        first = first[0] if first else None
    # An empty list has no further nesting, so the dimensions after the first 0 cannot be compared.
    if tuple(nesting) != shape[: shape.index(0) + 1 if 0 in shape else None]:
        raise InvalidRequest(f"{where}: data is nested as {nesting}, shape is {list(shape)}")
    try:
        for size in nesting[1:]:
            data = _join(data, size)
    except ValueError:
        raise InvalidRequest(f"{where}: {_RAGGED}") from None
    return data


def _join(lists: list[Any], size: int) -> list[Any]:
    """Return the items of lists of `size` items each. Raises `ValueError` for anything else."""
    if set(map(type, lists)) != {list}:
        raise ValueError
    # Lists can far outnumber the values only if each has one item, so this case is the fastest.
    if size == 1:
        return [item for [item] in lists]
    if set(map(len, lists)) != {size}:
        raise ValueError
    return list(chain.from_iterable(lists))
