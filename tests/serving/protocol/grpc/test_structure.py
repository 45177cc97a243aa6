"""Large messages are examined before they are parsed and converted."""

from __future__ import annotations

import math
import sys
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest
from serving.protocol.grpc.codec import parse_request
from serving.protocol.grpc.structure import MAX_FIELDS, check_structure, check_values
from serving.protocol.tensor import MAX_EXTRA_VALUES
from tests.serving.builders import in_process
from tests.serving.protocol.grpc.calls import call_error, infer_request, serving

INPUT, OUTPUT, PARAMETER, RAW = b"\x2a", b"\x32", b"\x22", b"\x3a"
"""Tags of fields of a request; that of a parameter is the same in a tensor."""

EMPTY = b"\x00"
GROUP = b"\x7b\x7c"
"""A group in a field that no request has."""

PADDING = RAW + b"\x80\x80\x08" + bytes(2**17)
"""A raw tensor that makes a message large."""


@pytest.mark.parametrize("tag", [INPUT, OUTPUT, PARAMETER, RAW])
def test_a_message_of_many_fields_is_rejected(tag: bytes) -> None:
    check_structure(PADDING + (tag + EMPTY) * (MAX_FIELDS - 1))
    with pytest.raises(InvalidRequest, match="more than 20000 fields"):
        check_structure(PADDING + (tag + EMPTY) * MAX_FIELDS)


def test_a_message_with_many_fields_in_a_tensor_is_rejected() -> None:
    size = 2 * MAX_FIELDS
    tensor = INPUT + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14))
    with pytest.raises(InvalidRequest, match="more than 20000 fields"):
        check_structure(tensor + (PARAMETER + EMPTY) * MAX_FIELDS + PADDING)


@pytest.mark.parametrize("raw", [b"\xff" * 2**17, PADDING[:-1], PADDING + b"\x2a\xff"])
def test_what_is_no_message_is_left_to_the_parser(raw: bytes) -> None:
    check_structure(raw)


def test_a_large_valid_message_is_accepted() -> None:
    check_structure(infer_request(np.zeros((5_000, 4), np.float32)).SerializeToString())


@pytest.mark.parametrize("tag", [INPUT, OUTPUT, PARAMETER, RAW])
def test_a_group_hides_no_fields(tag: bytes) -> None:
    many = (tag + EMPTY) * MAX_FIELDS + PADDING
    for message in (GROUP + many, INPUT + b"\x02" + GROUP + many):
        with pytest.raises(InvalidRequest, match="the message has a group"):
            check_structure(message)


def packed(field: str, value: object, count: int) -> Any:
    """Return a request of two inputs with this many values together."""
    request = pb.ModelInferRequest(model_name="shirts", id="a1")
    for name, size in (("a", count // 2), ("b", count - count // 2)):
        request.inputs.add(name=name)
        getattr(request.inputs[-1].contents, field).extend([value] * size)
    return request


def test_the_values_of_a_tensor_are_not_walked() -> None:
    """That would take far longer than to parse them."""
    unpacked = b"\x10\x01" * 2**17
    size = bytes((0x80, 0x80, 0x10))
    contents = b"\x2a" + size + unpacked
    message = INPUT + bytes((len(contents) & 127 | 128, len(contents) >> 7 & 127 | 128, 0x10))
    message += contents
    lines = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal lines
        lines += 1

    sys.setprofile(count)
    try:
        check_structure(message)
    finally:
        sys.setprofile(None)
    assert len(pb.ModelInferRequest.FromString(message).inputs[0].contents.int_contents) == 2**17
    assert lines < 1_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("int_contents", 1),
        ("bool_contents", True),
        ("fp64_contents", 0.5),
        ("bytes_contents", b""),
    ],
)
def test_values_far_beyond_those_of_the_model_are_not_converted(field: str, value: object) -> None:
    most = 256 + MAX_EXTRA_VALUES
    check_values(packed(field, value, most), 256)
    check_values(packed(field, value, most + 1), math.inf)
    too_many = packed(field, value, most + 1)
    with pytest.raises(InvalidRequest, match=r"far more values .* at most 256"):
        check_values(too_many, 256)
    with pytest.raises(InvalidRequest, match="far more values") as caught:
        parse_request(too_many, 256)
    assert caught.value.request_id == "a1"


async def test_both_checks_hold_for_calls() -> None:
    async with serving(in_process()) as channel:
        caught = await call_error(channel, "ModelInfer", PADDING + (INPUT + EMPTY) * MAX_FIELDS)
        assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "more than 20000 fields" in caught.details()
        message = pb.ModelInferRequest(model_name="shirts")
        message.inputs.add(name="pixels", datatype="INT32", shape=[300_000])
        message.inputs[0].contents.int_contents.extend([1] * 300_000)
        caught = await call_error(channel, "ModelInfer", message)
        assert "far more values" in caught.details()
