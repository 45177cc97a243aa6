"""The wire format between gateway and host: one ZeroMQ message per batch.

    header ─ JSON: {"id", "tensors": [[name, datatype, shape], ...]}
    buffer ─ the raw bytes of each tensor, in the order of the header

An answer's header has "compute_s" too, or "error" and no tensors. Nothing is ever pickled.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import orjson
import zmq

from serving.dataplane.batching import Arrays
from variants.catalog.datatype import DATATYPE, NUMPY
from variants.catalog.raw import from_raw, to_raw

HEARTBEAT_MS: Final = 500
"""Interval between the heartbeats of a connection, in milliseconds."""

SILENCE_VARIABLE: Final = "PARETOSERVE_LINK_SILENCE_MS"


def _silence_ms() -> int:
    text = os.environ.get(SILENCE_VARIABLE, "2000")
    if not text.isdecimal() or int(text) <= HEARTBEAT_MS:
        raise ValueError(f"{SILENCE_VARIABLE} must be an integer above {HEARTBEAT_MS}, not {text}")
    return int(text)


SILENCE_MS: Final = _silence_ms()
"""Time without a message, in milliseconds, after which a peer is considered lost.

A machine that stops processes for longer needs more.
"""

MAX_MESSAGE_BYTES: Final = 2**30
"""Largest frame that a socket accepts, in bytes."""


class MalformedMessage(ValueError):
    """The frames are not a message that `pack` could have written."""


def pack(tensors: Arrays, **fields: Any) -> list[bytes | memoryview]:
    """Return the frames of a message: its header, then each tensor as `to_raw` returns it."""
    described = [[name, DATATYPE[array.dtype], array.shape] for name, array in tensors.items()]
    header = orjson.dumps({**fields, "tensors": described})
    return [header, *map(to_raw, tensors.values())]


def unpack(frames: Sequence[zmq.Frame]) -> tuple[dict[str, Any], Arrays]:
    """Return the header and the tensors of a message; tensors are views of the frames if possible.

    Raises `MalformedMessage` if the frames are not a message of `pack`.
    """
    if not frames:
        raise MalformedMessage("the header is missing")
    try:
        header = orjson.loads(frames[0].buffer)
        if not isinstance(header["id"], int):
            raise TypeError("the id is not a number")
        described = [
            (str(name), NUMPY[datatype], tuple(int(size) for size in shape))
            for name, datatype, shape in header["tensors"]
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"the header cannot be read: {error!r:.200}") from error
    if len(described) != len(frames) - 1:
        raise MalformedMessage(
            f"the header describes {len(described)} tensors, there are {len(frames) - 1} buffers"
        )
    tensors = {}
    for (name, dtype, shape), frame in zip(described, frames[1:], strict=True):
        if min(shape, default=0) < 0:
            raise MalformedMessage(f"tensor {name!r:.100} has the invalid shape {shape!s:.100}")
        try:
            tensors[name] = from_raw(frame.buffer, dtype, shape)
        except ValueError as error:
            raise MalformedMessage(f"tensor {name!r:.100}: {error!s:.200}") from error
    return header, tensors


def configure(socket: zmq.Socket[Any]) -> None:
    """Set the options that both ends of the link share. Queues are unbounded."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
