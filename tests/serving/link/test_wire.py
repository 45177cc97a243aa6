from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.link.wire import (
    ALIGNMENT,
    HEARTBEAT,
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    PREFIX,
    Buffer,
    MalformedMessage,
    Received,
    pack,
    pack_error,
    read_prefix,
    unpack,
)
from tests.tensors import assert_equal, named_arrays
from variants.catalog.datatype import NUMPY

tensors = named_arrays(st.text(), NUMPY, arrays.array_shapes(min_dims=0, min_side=0), min_size=0)


def received(message: Sequence[Buffer]) -> Received:
    """Return a message as the other end receives it."""
    sent = b"".join(message)
    header_bytes, size, number, compute_s = read_prefix(sent[: PREFIX.size])
    assert size == len(sent) - PREFIX.size
    return Received(header_bytes, number, compute_s, memoryview(sent)[PREFIX.size :])


@given(tensors, st.integers(0, 2**64 - 1), st.floats(0, 100))
def test_a_packed_message_is_unpacked_unchanged(
    inputs: dict[str, npt.NDArray[Any]], number: int, compute_s: float
) -> None:
    message = unpack(received(pack(number, inputs, compute_s)))
    assert (message.number, message.compute_s, message.error) == (number, compute_s, None)
    assert_equal(message.tensors, inputs)


def test_an_error_is_unpacked_unchanged() -> None:
    message = unpack(received(pack_error(7, 'a "batch" failed: é')))
    assert message == (7, 0.0, {}, 'a "batch" failed: é')


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(12.0).reshape(3, 4).T, id="transposed"),
        pytest.param(np.arange(12.0)[::-2], id="backwards, every other value"),
        pytest.param(np.frombuffer(bytes(range(41)), np.uint8)[1:].view("<f8"), id="unaligned"),
        pytest.param(np.broadcast_to(np.float32(1), (3, 2)), id="one value, many times"),
    ],
)
def test_an_array_of_any_memory_layout_is_packed(array: npt.NDArray[Any]) -> None:
    message = unpack(received(pack(1, {"x": array})))
    np.testing.assert_array_equal(message.tensors["x"], array, strict=True)


@pytest.mark.parametrize("size", [1, 100_000])
def test_tensors_begin_at_multiples_of_the_alignment(size: int) -> None:
    inputs: dict[str, npt.NDArray[Any]]
    inputs = {"a": np.zeros(size, np.uint8), "b" * size: np.zeros(5, np.uint8), "c": np.ones(3)}
    content = received(pack(1, inputs)).content
    begin = np.frombuffer(content, np.uint8).ctypes.data
    for array in unpack(received(pack(1, inputs))._replace(content=content)).tensors.values():
        assert (array.ctypes.data - begin) % ALIGNMENT == 0


def test_large_buffers_are_not_copied() -> None:
    array = np.zeros((200, 300), np.float32)
    _, buffer = pack(1, {"x": array})
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)
    message = received(pack(1, {"x": array}))
    tensor = unpack(message).tensors["x"]
    assert np.shares_memory(tensor, np.frombuffer(message.content, np.uint8))


def test_a_message_that_the_other_end_would_not_accept_is_not_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = {"x": np.zeros(1_000, np.uint8)}
    pack(1, inputs)
    with pytest.raises(ValueError, match="is too large"):
        pack(1, {"x" * MAX_HEADER_BYTES: np.zeros(1)})
    monkeypatch.setattr("serving.link.wire.MAX_MESSAGE_BYTES", 1_000)
    with pytest.raises(ValueError, match="is too large"):
        pack(1, inputs)


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(b"GET /v2/health/ready HTTP/1.1\r\n\r\n"[: PREFIX.size], id="HTTP"),
        pytest.param(PREFIX.pack(b"PSL0", 16, 16, 1, 0.0), id="another version"),
        pytest.param(PREFIX.pack(MAGIC, 16, MAX_MESSAGE_BYTES + 1, 1, 0.0), id="too large"),
        pytest.param(PREFIX.pack(MAGIC, 32, 16, 1, 0.0), id="a header beyond the end"),
        pytest.param(
            PREFIX.pack(MAGIC, MAX_HEADER_BYTES + 1, MAX_MESSAGE_BYTES, 1, 0.0),
            id="too large a header",
        ),
    ],
)
def test_a_prefix_that_begins_no_message_is_refused(prefix: bytes) -> None:
    with pytest.raises(MalformedMessage, match="does not begin a message"):
        read_prefix(prefix)
    assert read_prefix(HEARTBEAT) == (0, 0, 0, 0.0)


X = [["x", "FP32", [2], 8]]


def content(tensors: object = X, buffers: bytes = bytes(16)) -> tuple[bytes, bytes]:
    """Return a header and the buffers behind it."""
    return orjson.dumps({"tensors": tensors}), buffers


MALFORMED: dict[str, tuple[bytes, bytes]] = {
    "an empty header": (b"", bytes(16)),
    "a header that is not JSON": (b"\x80\x04\x95 a pickle", bytes(16)),
    "a header that is a list": (b"[]", bytes(16)),
    "a header that is text": (b'"tensors"', bytes(16)),
    "a header nested too deeply to parse": (b"[" * 100_000, bytes(16)),
    "tensors that are a number": content(5),
    "tensors that are null": content(None),
    "a tensor that is a number": content([5]),
    "a tensor of three fields": content([["x", "FP32", [2]]]),
    "an unknown datatype": content([["x", "FP8", [2], 8]]),
    "a datatype that is a list": content([["x", ["FP32"], [2], 8]]),
    "a shape that is a number": content([["x", "FP32", 2, 8]]),
    "a dimension that is text": content([["x", "FP32", ["two"], 8]]),
    "a dimension that is null": content([["x", "FP32", [None], 8]]),
    "a negative dimension": content([["x", "FP32", [-2], 8]]),
    "a negative dimension of BYTES": content([["x", "BYTES", [-1], 0]], b""),
    "two negative dimensions": content([["x", "FP32", [-1, -2], 8]]),
    "a negative size": content([["x", "FP32", [2], -8]]),
    "a size that is infinite": (b'{"tensors": [["x", "FP32", [2], 1e999]]}', bytes(16)),
    "too few bytes": content([["x", "FP32", [2], 7]]),
    "too many bytes": content([["x", "FP32", [2], 9]]),
    "a missing buffer": content(buffers=b""),
    "a buffer without padding": content(buffers=bytes(8)),
    "one buffer too many": content(buffers=bytes(32)),
    "a size that exceeds the address space": content([["x", "FP32", [2], 2**63]]),
    "a shape that exceeds the address space": content([["x", "FP32", [0, 2**62, 8], 0]], b""),
    "a boolean with the value 2": content([["x", "BOOL", [2], 2]], b"\1\2".ljust(16)),
    "BYTES without a length": content([["x", "BYTES", [1], 3]], b"abc".ljust(16)),
    "BYTES with a length beyond the buffer": content(
        [["x", "BYTES", [1], 7]], b"\xff\xff\xff\xffabc".ljust(16)
    ),
    "BYTES with trailing bytes": content([["x", "BYTES", [1], 6]], b"\1\0\0\0ab".ljust(16)),
    "a number of BYTES that exceeds the address space": content(
        [["x", "BYTES", [2**62, 2**62], 8]]
    ),
    "more dimensions than numpy supports": content([["x", "FP32", [1] * 99 + [2], 8]]),
}


def sent(header: bytes, buffers: bytes, compute_s: float = 0.0) -> bytes:
    """Return a message with the number 1."""
    header += b" " * (-len(header) % ALIGNMENT)
    size = len(header) + len(buffers)
    return PREFIX.pack(MAGIC, len(header), size, 1, compute_s) + header + buffers


@pytest.mark.parametrize(("header", "buffers"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_messages_are_refused_with_a_short_message(header: bytes, buffers: bytes) -> None:
    for _ in range(2):  # a header is remembered
        with pytest.raises(MalformedMessage) as caught:
            unpack(received([sent(header, buffers)]))
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("compute_s", [-1.0, math.inf, math.nan])
def test_an_impossible_time_is_refused(compute_s: float) -> None:
    with pytest.raises(MalformedMessage, match="the time of the batch"):
        unpack(received([sent(*content(), compute_s)]))


def test_the_message_that_the_table_varies_is_well_formed() -> None:
    assert unpack(received([sent(*content())])).tensors["x"].tolist() == [0, 0]


json_values = st.recursive(
    st.none() | st.integers(-2, 2**64 - 1) | st.text(max_size=3) | st.sampled_from(sorted(NUMPY)),
    lambda values: st.lists(values, max_size=4),
    max_leaves=12,
)


@given(
    st.binary(max_size=16)
    | st.builds(lambda value: content(value)[0], json_values)
    | st.builds(
        lambda value: content(value)[0],
        st.lists(st.tuples(st.text(max_size=2), json_values, json_values, json_values)),
    ),
    st.binary(max_size=64),
)
def test_arbitrary_contents_are_a_message_or_refused(header: bytes, buffers: bytes) -> None:
    try:
        message = unpack(received([sent(header, buffers)]))
    except MalformedMessage:
        return
    pack(1, message.tensors)
