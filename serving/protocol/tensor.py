"""Raw tensors: those of HTTP's binary extension, and of gRPC's raw contents.

    datatype, shape, bytes ─▶ array ─▶ bytes

Bytes are as `variants.raw` has them. Arrays are views of the bytes, except those of BYTES. Every
fault is an `InvalidRequest` that begins with `where` and says what would be right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from serving.errors import InvalidRequest, shown
from variants import raw as raw_tensor
from variants.datatype import NUMPY

Array = npt.NDArray[Any]

MAX_DIMENSIONS = 8
MAX_VALUES = 2**48
"""In one tensor, an empty dimension not counted: numpy refuses what no address could reach."""

to_raw = raw_tensor.to_raw


def from_raw(datatype: str, shape: tuple[int, ...], raw: bytes | memoryview, where: str) -> Array:
    """Return the tensor in these bytes, which must hold it and nothing else.

    `datatype` and `shape` are as `check_datatype` and `check_shape` return them.
    """
    try:
        return raw_tensor.from_raw(raw, NUMPY[datatype], shape)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}") from None


def check_datatype(value: Any, where: str) -> str:
    """Return the datatype, if it is one of the protocol's."""
    if not isinstance(value, str) or value not in NUMPY:
        raise InvalidRequest(f"{where}: datatype must be one of {', '.join(NUMPY)}")
    return value


def check_shape(value: list[Any], where: str) -> tuple[int, ...]:
    """Return the shape, if a tensor can have it; what model wants it is not asked."""
    for dimension in value:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 0:
            raise InvalidRequest(
                f"{where}: shape must hold whole numbers of at least 0, got {shown(dimension)}"
            )
    if len(value) > MAX_DIMENSIONS:
        raise InvalidRequest(f"{where}: shape has over {MAX_DIMENSIONS} dimensions")
    if math.prod(max(1, dimension) for dimension in value) > MAX_VALUES:
        raise InvalidRequest(f"{where}: shape {value} is larger than any tensor")
    return tuple(value)
