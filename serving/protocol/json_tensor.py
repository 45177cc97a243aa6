"""Tensors as JSON: nested or flat lists of numbers, booleans, or of text for BYTES.

FP16 and BF16 do not travel so: in a request they are refused, and an answer has them as binary
whatever was asked for. JSON has neither NaN nor infinities: a request that has them is no JSON, and
in an answer they are null, where binary has them as they are. BYTES is text in UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from serving.errors import InvalidRequest
from serving.protocol.tensor import MAX_DIMENSIONS, Array
from variants.datatype import NUMPY

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
    # Before numpy sees it: it would pad every value to the length of the longest text.
    if len(data) > max(1, *shape, math.prod(shape)):
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {math.prod(shape)} values, data has {len(data)}"
        )
    dtype = NUMPY[datatype]
    types = _types(data)
    if list in types:
        raise InvalidRequest(f"{where}: data is nested over {MAX_DIMENSIONS} deep")
    if not types <= _JSON_TYPES[dtype.kind]:
        raise InvalidRequest(f"{where}: data must be {_WORDS[dtype.kind]}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(data, dtype)
    except ValueError:
        raise InvalidRequest(f"{where}: {_UNEVEN}") from None
    except OverflowError:
        raise InvalidRequest(f"{where}: {_RANGE}") from None
    if dtype.kind == "O":
        array = _encoded(array, where)
    if array.size != math.prod(shape):
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {math.prod(shape)} values, data has {array.size}"
        )
    if array.size and array.ndim != 1 and array.shape != shape:
        raise InvalidRequest(
            f"{where}: data is nested as {list(array.shape)}, shape says {list(shape)}"
        )
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


def _encoded(array: Array, where: str) -> Array:
    """Return text as BYTES; where it is nested unevenly, numpy has left lists in the array."""
    texts = array.reshape(-1).tolist()
    if list in set(map(type, texts)):
        raise InvalidRequest(f"{where}: {_UNEVEN}")
    return np.array([text.encode() for text in texts], array.dtype).reshape(array.shape)


def _types(data: list[Any], depth: int = 1) -> set[type]:
    """Return the types of the values; `list` is one of them only where they lie too deep."""
    types = set(map(type, data))
    if list in types and depth < MAX_DIMENSIONS:
        types.remove(list)
        for item in data:
            if isinstance(item, list):
                types |= _types(item, depth + 1)
    return types
