"""The wire format between gateway and host: one message per batch.

    prefix  ─ PREFIX: magic, size of the header, size of all that follows, number, compute_s
    header  ─ JSON: {"tensors": [[name, datatype, shape, size in bytes], ...]} or {"error": ...}
    buffers ─ the raw bytes of each tensor, in the order of the header

Header and buffers are padded to ALIGNMENT. Headers repeat, so both ends remember recent ones. A
prefix without a header is a heartbeat. Nothing is ever pickled.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from serving.dataplane.batching import Arrays
from variants.catalog.datatype import DATATYPE, NUMPY
from variants.catalog.raw import from_raw, to_raw

Buffer: TypeAlias = bytes | memoryview

PREFIX: Final = struct.Struct("<4sIQQd")

MAGIC: Final = b"PSL1"
"""The first bytes of each message, which are also the version of the format."""

HEARTBEAT: Final = PREFIX.pack(MAGIC, 0, 0, 0, 0.0)

ALIGNMENT: Final = 16
"""Tensors begin at multiples of this many bytes, as memory from `malloc` does."""

MAX_MESSAGE_BYTES: Final = 2**30
"""Largest message, in bytes, without its prefix."""

MAX_HEADER_BYTES: Final = 2**20
"""Largest header, in bytes."""

SMALL_BYTES: Final = 2**16
"""Messages up to this size are copied into one buffer, which the kernel takes in less time."""

REMEMBERED_HEADERS: Final = 512


class MalformedMessage(ValueError):
    """What arrived is not a message that the other end could have written."""


class Received(NamedTuple):
    """A message before its header is read."""

    header_bytes: int
    number: int
    compute_s: float
    content: memoryview
    """Header and buffers."""


class Message(NamedTuple):
    """A batch, its outputs, or the error with which it failed."""

    number: int
    """Number of the batch, which the gateway chose."""
    compute_s: float
    tensors: Arrays
    error: str | None


class _Tensor(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


class _Header(NamedTuple):
    tensors: tuple[_Tensor, ...]
    end: int
    """Size of header and buffers, in bytes."""
    error: str | None


def pack(number: int, tensors: Arrays, compute_s: float = 0.0) -> list[Buffer]:
    """Return the bytes of a message. Large tensors are views of their arrays.

    Raises `ValueError` if the message is larger than the other end accepts, and `KeyError` if an
    array has none of the known datatypes.
    """
    described, buffers, size = [], [], 0
    for name, array in tensors.items():
        raw = to_raw(array)
        described.append((name, DATATYPE[array.dtype], array.shape, len(raw)))
        buffers.append(raw)
        size += len(raw)
        padding = -len(raw) % ALIGNMENT
        if padding:
            buffers.append(bytes(padding))
            size += padding
    return _pack(number, compute_s, _describe(tuple(described)), buffers, size)


def pack_error(number: int, error: str) -> list[Buffer]:
    """Return the bytes of the answer to a batch that failed."""
    return _pack(number, 0.0, _padded(orjson.dumps({"error": error})), [], 0)


def _pack(
    number: int, compute_s: float, header: bytes, buffers: list[Buffer], buffers_bytes: int
) -> list[Buffer]:
    size = len(header) + buffers_bytes
    if size > MAX_MESSAGE_BYTES or len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a message of {size} bytes is too large")
    prefix = PREFIX.pack(MAGIC, len(header), size, number, compute_s)
    if size <= SMALL_BYTES:
        return [b"".join((prefix, header, *buffers))]
    return [prefix + header, *buffers]


def read_prefix(prefix: Buffer) -> tuple[int, int, int, float]:
    """Return the size of the header, the size of the content, the number and `compute_s`.

    Raises `MalformedMessage` if this is not the beginning of a message.
    """
    magic, header_bytes, size, number, compute_s = PREFIX.unpack(prefix)
    if magic != MAGIC or header_bytes > min(size, MAX_HEADER_BYTES) or size > MAX_MESSAGE_BYTES:
        raise MalformedMessage(f"{bytes(prefix)!r} does not begin a message")
    return header_bytes, size, number, compute_s


def unpack(received: Received) -> Message:
    """Return a message, with tensors that are views of its content except for BYTES.

    Raises `MalformedMessage` if `pack` could not have written the message.
    """
    header_bytes, number, compute_s, content = received
    header = _read_header(bytes(content[:header_bytes]))
    if header.end != len(content):
        raise MalformedMessage(f"the tensors end at byte {header.end} of {len(content)}")
    if not 0.0 <= compute_s < math.inf:
        raise MalformedMessage(f"the time of the batch is {compute_s}")
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, dtype, shape, start, end in header.tensors:
        try:
            tensors[name] = from_raw(content[start:end], dtype, shape)
        except ValueError as error:
            raise MalformedMessage(f"tensor {name!r:.100}: {error!s:.200}") from error
    return Message(number, compute_s, tensors, header.error)


@lru_cache(maxsize=REMEMBERED_HEADERS)
def _describe(tensors: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> bytes:
    """Return the header of tensors."""
    return _padded(orjson.dumps({"tensors": tensors}))


@lru_cache(maxsize=REMEMBERED_HEADERS)
def _read_header(header: bytes) -> _Header:
    end, tensors = len(header), []
    try:
        document = orjson.loads(header)
        error = document.get("error")
        for name, datatype, sizes, raw_bytes in document.get("tensors", ()):
            start, shape, size = end, tuple(map(int, sizes)), int(raw_bytes)
            end = start + size + -size % ALIGNMENT
            tensors.append(_Tensor(str(name), NUMPY[datatype], shape, start, start + size))
            if min((size, *shape)) < 0:
                raise ValueError("a size is negative")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as cause:
        raise MalformedMessage(f"the header cannot be read: {cause!r:.200}") from cause
    return _Header(tuple(tensors), end, None if error is None else str(error))


def _padded(header: bytes) -> bytes:
    return header + b" " * (-len(header) % ALIGNMENT)
