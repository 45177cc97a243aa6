"""Arrays as the wire has them: little-endian, row-major, nothing between the values.

An element of BYTES is its length, as a little-endian uint32, and then itself. A value of BOOL is
one byte, 0 or 1.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from variants.catalog.datatype import DATATYPE

_LENGTH: Final = struct.Struct("<I")

_SMALL_BYTES: Final = 2**14
"""To copy so much takes 0.2 us, to make a view of anything 0.5 us."""


def to_raw(array: NDArray[Any]) -> bytes | memoryview:
    """Return the bytes of an array: a view of it where it is large and contiguous, not BYTES."""
    if array.dtype.kind == "O":
        elements = array.reshape(-1).tolist()
        return b"".join(part for own in elements for part in (_LENGTH.pack(len(own)), own))
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_raw(raw: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array in these bytes: a view of them, unless it is BYTES.

    Raises `ValueError`, with words for whoever sent them, if they are not all of this array and
    nothing else. No dimension may be negative.
    """
    count = math.prod(shape)
    if dtype.kind == "O":
        # Before anything is made room for: a shape costs its sender nothing.
        if count * _LENGTH.size > len(raw):
            raise ValueError(
                f"shape {list(shape)} of BYTES takes at least {count * _LENGTH.size} bytes, "
                f"not {len(raw)}"
            )
        return np.fromiter(_elements(raw, count), dtype, count).reshape(shape)
    if count * dtype.itemsize != len(raw):
        raise ValueError(
            f"shape {list(shape)} of {DATATYPE[dtype]} takes {count * dtype.itemsize} bytes, "
            f"not {len(raw)}"
        )
    if dtype.kind == "b" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise ValueError("a value of BOOL must be a byte of 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def _elements(raw: bytes | memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    unpack_from, prefix, size, end = _LENGTH.unpack_from, _LENGTH.size, len(raw), 0
    for _ in range(count):
        start = end + prefix
        if start > size:
            raise ValueError(f"the bytes end before the length of element {len(elements)}")
        end = start + unpack_from(raw, end)[0]
        if end > size:
            raise ValueError(
                f"element {len(elements)} says {end - start} bytes, but {size - start} are left"
            )
        elements.append(bytes(raw[start:end]))
    if end != size:
        raise ValueError(f"{size - end} bytes follow the last of {count} elements")
    return elements
