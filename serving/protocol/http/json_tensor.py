"""Tensors as JSON: nested or flat lists of numbers, booleans, or of text for BYTES.

FP16 and BF16 do not travel so: in a request they are refused, and an answer has them as binary
whatever was asked for. JSON has neither NaN nor infinities: a request that has them is no JSON, and
in an answer they are null, where binary has them as they are. BYTES is text in UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import numpy as np

from serving.errors import InvalidRequest
from serving.protocol.tensor import MAX_DIMENSIONS, Array
from variants.catalog.datatype import NUMPY

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})

_JSON_TYPES: Final[Mapping[str, set[type]]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "O": {str},
}
_WORDS: Final = {
    "b": "booleans, without null or text",
    "i": "whole numbers, without null or text",
    "u": "whole numbers, without null or text",
    "f": "numbers, without null or text",
    "O": "strings, without null or numbers",
}
_RANGE: Final = "data has a value outside the range of its datatype"
_UNEVEN: Final = "data is nested unevenly"


def from_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Return the tensor in these values; every fault is an `InvalidRequest`.

    `datatype` and `shape` are as `check_datatype` and `check_shape` return them.
    """
    if datatype in BINARY_ONLY:
        raise InvalidRequest(
            f"{where}: {datatype} cannot travel as JSON; send the tensor as binary, "
            "after the JSON part and with binary_data_size"
        )
    if not isinstance(data, list):
        raise InvalidRequest(f"{where}: data must be a list of values, nested or flat")
    if data and data[0].__class__ is list:
        data = _flattened(data, shape, where)
    count = math.prod(shape)
    if len(data) != count:
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {count} values, data has {len(data)}"
        )
    dtype = NUMPY[datatype]
    types = set(map(type, data))
    if not types <= _JSON_TYPES[dtype.kind]:
        fault = _UNEVEN if list in types else f"data must be {_WORDS[dtype.kind]}"
        raise InvalidRequest(f"{where}: {fault}")
    if dtype.kind == "O":
        data = [text.encode() for text in data]
    try:
        with np.errstate(over="ignore"):
            array = np.fromiter(data, dtype, count)
    except OverflowError:
        raise InvalidRequest(f"{where}: {_RANGE}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"{where}: {_RANGE}")
    return array.reshape(shape)


def to_json(array: Array, name: str) -> Any:
    """Return the values, flat, as orjson with `OPT_SERIALIZE_NUMPY` takes them.

    The datatype is none of `BINARY_ONLY`. Raises `InvalidRequest` if BYTES are no UTF-8.
    """
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output {name!r} holds bytes that are no UTF-8, which JSON cannot say; "
            "ask for that output with the parameter binary_data true"
        ) from None


def _flattened(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    """Return the values of nested data, if it is nested as the shape says.

    Level by level and not list by list: a body may hold millions of lists.
    """
    nesting: list[int] = []
    first: Any = data
    while first.__class__ is list:
        if len(nesting) == MAX_DIMENSIONS:
            raise InvalidRequest(f"{where}: data is nested over {MAX_DIMENSIONS} deep")
        nesting.append(len(first))
        first = first[0] if first else None
    # Nothing is nested within an empty list, whatever follows in the shape.
    if tuple(nesting) != shape[: shape.index(0) + 1 if 0 in shape else None]:
        raise InvalidRequest(f"{where}: data is nested as {nesting}, shape says {list(shape)}")
    try:
        for size in nesting[1:]:
            data = _unnested(data, size)
    except ValueError:
        raise InvalidRequest(f"{where}: {_UNEVEN}") from None
    return data


def _unnested(lists: list[Any], size: int) -> list[Any]:
    """Return the items of lists that have so many each; raises `ValueError` for anything else."""
    if set(map(type, lists)) != {list}:
        raise ValueError
    # Only where each holds one can lists outnumber the values by far, so that way is the fastest.
    if size == 1:
        return [item for [item] in lists]
    if set(map(len, lists)) != {size}:
        raise ValueError
    return list(chain.from_iterable(lists))
