from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.link.wire import MalformedMessage, pack, unpack
from tests.tensors import assert_equal, named_arrays
from variants.catalog.datatype import NUMPY

tensors = named_arrays(st.text(), NUMPY, arrays.array_shapes(min_dims=0, min_side=0), min_size=0)


def received(frames: Sequence[bytes | memoryview]) -> list[zmq.Frame]:
    """Return the frames as the other end receives them."""
    return [zmq.Frame(bytes(frame)) for frame in frames]


@given(tensors, st.integers(0, 2**63), st.floats(0, 100))
def test_a_packed_message_is_unpacked_unchanged(
    inputs: dict[str, npt.NDArray[Any]], number: int, compute_s: float
) -> None:
    header, outputs = unpack(received(pack(inputs, id=number, compute_s=compute_s)))
    assert (header["id"], header["compute_s"]) == (number, compute_s)
    assert_equal(outputs, inputs)


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
    _, tensors = unpack(received(pack({"x": array}, id=1)))
    np.testing.assert_array_equal(tensors["x"], array, strict=True)


def test_large_buffers_are_not_copied() -> None:
    array = np.zeros((200, 300), np.float32)
    _, buffer = pack({"x": array}, id=1)
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)
    frames = received(pack({"x": array}, id=1))
    _, tensors = unpack(frames)
    assert np.shares_memory(tensors["x"], np.frombuffer(frames[1].buffer, np.uint8))


X = [["x", "FP32", [2]]]


def header(tensors: object = X) -> bytes:
    return orjson.dumps({"id": 1, "tensors": tensors})


MALFORMED = {
    "no frames": [],
    "an empty header": [b""],
    "a header that is not JSON": [b"\x80\x04\x95 a pickle"],
    "a header that is a list": [b"[]", bytes(8)],
    "a header that is text": [b'"tensors"', bytes(8)],
    "a header nested too deeply to parse": [b"[" * 100_000, bytes(8)],
    "no id": [b'{"tensors": []}'],
    "an id nested too deeply to be written": [
        b'{"id":' + b"[" * 300 + b"]" * 300 + b',"tensors":[]}'
    ],
    "a header without tensors": [b'{"id": 1}', bytes(8)],
    "tensors that are a number": [header(5)],
    "tensors that are null": [header(None)],
    "a tensor that is a number": [header([5]), bytes(8)],
    "a tensor of two fields": [header([["x", "FP32"]]), bytes(8)],
    "an unknown datatype": [header([["x", "FP8", [2]]]), bytes(8)],
    "a datatype that is a list": [header([["x", ["FP32"], [2]]]), bytes(8)],
    "a shape that is a number": [header([["x", "FP32", 2]]), bytes(8)],
    "a dimension that is text": [header([["x", "FP32", ["two"]]]), bytes(8)],
    "a dimension that is null": [header([["x", "FP32", [None]]]), bytes(8)],
    "a negative dimension": [header([["x", "FP32", [-2]]]), bytes(8)],
    "a negative dimension of BYTES": [header([["x", "BYTES", [-1]]]), b""],
    "two negative dimensions": [header([["x", "FP32", [-1, -2]]]), bytes(8)],
    "too few bytes": [header(), bytes(7)],
    "too many bytes": [header(), bytes(9)],
    "a missing buffer": [header()],
    "one buffer too many": [header(), bytes(8), bytes(8)],
    "a shape that exceeds the address space": [header([["x", "FP32", [0, 2**62, 8]]]), b""],
    "a boolean with the value 2": [header([["x", "BOOL", [2]]]), b"\1\2"],
    "BYTES without a length": [header([["x", "BYTES", [1]]]), b"abc"],
    "BYTES with a length beyond the buffer": [
        header([["x", "BYTES", [1]]]),
        b"\xff\xff\xff\xffabc",
    ],
    "BYTES with trailing bytes": [header([["x", "BYTES", [1]]]), b"\1\0\0\0ab"],
    "a number of BYTES that exceeds the address space": [
        header([["x", "BYTES", [2**62, 2**62]]]),
        bytes(8),
    ],
    "more dimensions than numpy supports": [header([["x", "FP32", [1] * 99 + [2]]]), bytes(8)],
}


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_are_refused_with_a_short_message(frames: list[bytes]) -> None:
    with pytest.raises(MalformedMessage) as caught:
        unpack(received(frames))
    assert len(str(caught.value)) < 400


def test_the_message_that_the_table_varies_is_well_formed() -> None:
    assert unpack(received([header(), bytes(8)]))[1]["x"].tolist() == [0, 0]


json_values = st.recursive(
    st.none() | st.integers(-2, 2**64 - 1) | st.text(max_size=3) | st.sampled_from(sorted(NUMPY)),
    lambda values: st.lists(values, max_size=4),
    max_leaves=12,
)


@given(
    st.lists(
        st.binary(max_size=16)
        | st.builds(header, json_values)
        | st.builds(header, st.lists(st.tuples(st.text(max_size=2), json_values, json_values))),
        max_size=4,
    )
)
def test_arbitrary_frames_are_a_message_or_refused(frames: list[bytes]) -> None:
    try:
        _, tensors = unpack(received(frames))
    except MalformedMessage:
        return
    pack(tensors)
