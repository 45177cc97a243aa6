"""Raw tensors: those of HTTP's binary extension, and of gRPC's raw contents.

    datatype, shape, bytes ─▶ array ─▶ bytes

Bytes are as `variants.catalog.raw` has them. Arrays are views of the bytes, except those of BYTES. Every
fault is an `InvalidRequest` that begins with `where` and says what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from serving.errors import InvalidRequest, shorten
from variants.catalog import raw as raw_tensor
from variants.catalog.datatype import NUMPY

Array = npt.NDArray[Any]

MAX_DIMENSIONS = 8
MAX_TENSORS = 1000
"""Inputs, and outputs, in one request: many times what a model has, and soon read."""

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


def check_count(inputs: int, outputs: int) -> None:
    """Refuse a request that sends, or asks for, more tensors than are taken."""
    if inputs > MAX_TENSORS:
        raise InvalidRequest(
            f"at most {MAX_TENSORS} inputs may be sent at once, the request has {inputs}"
        )
    if outputs > MAX_TENSORS:
        raise InvalidRequest(
            f"at most {MAX_TENSORS} outputs may be asked for at once, the request has {outputs}"
        )


def check_datatype(value: Any, where: str) -> str:
    """Return the datatype, if it is one of the protocol's."""
    if not isinstance(value, str) or value not in NUMPY:
        raise InvalidRequest(f"{where}: datatype must be one of {', '.join(NUMPY)}")
    return value


def check_shape(value: Sequence[Any], where: str) -> tuple[int, ...]:
    """Return the shape, if a tensor can have it; what model wants it is not asked."""
    if len(value) > MAX_DIMENSIONS:
        raise InvalidRequest(f"{where}: shape has over {MAX_DIMENSIONS} dimensions")
    shape = tuple(value)
    for dimension in shape:
        if dimension.__class__ is not int or dimension < 0:
            raise InvalidRequest(
                f"{where}: shape must hold whole numbers of at least 0, got {shorten(dimension)}"
            )
    if math.prod([dimension or 1 for dimension in shape]) > MAX_VALUES:
        raise InvalidRequest(f"{where}: shape {list(shape)} is larger than any tensor")
    return shape
