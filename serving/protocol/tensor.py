"""Raw tensors of HTTP's binary extension and of gRPC's raw contents, and checks of both transports.

    datatype, shape, bytes ─▶ array ─▶ bytes

`variants.catalog.raw` defines the bytes. Arrays are views of the bytes, except those of datatype
BYTES. Every error is an `InvalidRequest` whose message begins with `where` and states the rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt

from serving.errors import InvalidRequest, shorten
from variants.catalog import raw as raw_tensor
from variants.catalog.datatype import NUMPY

Array = npt.NDArray[Any]

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})
"""Datatypes that have no JSON form in the protocol."""

MAX_DIMENSIONS: Final = 8
"""Maximum number of dimensions of a tensor."""

MAX_TENSORS: Final = 1000
"""Maximum number of inputs, and of outputs, in one request: far above what models have."""

MAX_EXTRA_VALUES: Final = 100_000
"""How many more values than the model takes are parsed, so that the error names the tensor."""

MAX_VALUES: Final = 2**48
"""Maximum number of values in a tensor, where an empty dimension counts as 1. numpy rejects shapes
beyond its address range, even of empty arrays."""

to_raw = raw_tensor.to_raw


def from_raw(datatype: str, shape: tuple[int, ...], raw: bytes | memoryview, where: str) -> Array:
    """Return the tensor that these bytes hold; their length must match exactly.

    `datatype` and `shape` must have passed `check_datatype` and `check_shape`.
    """
    try:
        return raw_tensor.from_raw(raw, NUMPY[datatype], shape)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}") from None


def check_count(inputs: int, outputs: int) -> None:
    """Raise `InvalidRequest` if a request has more than `MAX_TENSORS` inputs or outputs."""
    if inputs > MAX_TENSORS:
        raise InvalidRequest(
            f"a request may have at most {MAX_TENSORS} inputs, this one has {inputs}"
        )
    if outputs > MAX_TENSORS:
        raise InvalidRequest(
            f"a request may have at most {MAX_TENSORS} outputs, this one has {outputs}"
        )


def check_datatype(value: Any, where: str) -> str:
    """Return the value if it is a datatype of the protocol; None and "" are a missing one."""
    if not isinstance(value, str) or value not in NUMPY:
        problem = "datatype must be" if value else "datatype is missing; it must be"
        raise InvalidRequest(f"{where}: {problem} one of {', '.join(NUMPY)}")
    return value


def check_shape(value: Sequence[Any], where: str) -> tuple[int, ...]:
    """Return the shape as a tuple if it is valid for any tensor; the model is not considered."""
    if len(value) > MAX_DIMENSIONS:
        raise InvalidRequest(f"{where}: shape may have at most {MAX_DIMENSIONS} dimensions")
    shape = tuple(value)
    for dimension in shape:
        if dimension.__class__ is not int or dimension < 0:
            raise InvalidRequest(
                f"{where}: shape must hold integers of at least 0, got {shorten(dimension)}"
            )
    if math.prod([dimension or 1 for dimension in shape]) > MAX_VALUES:
        raise InvalidRequest(f"{where}: shape {list(shape)} is too large")
    return shape
