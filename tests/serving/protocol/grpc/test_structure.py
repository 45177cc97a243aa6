"""Large messages are examined before they are parsed and converted."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest
from serving.protocol.grpc.structure import MAX_FIELDS, check_structure
from serving.protocol.tensor import MAX_EXTRA_VALUES
from tests.serving.builders import in_process
from tests.serving.protocol.grpc.calls import call_error, infer_request, serving

INPUT, OUTPUT, PARAMETER, RAW = b"\x2a", b"\x32", b"\x22", b"\x3a"
"""Tags of fields of a request; that of a parameter is the same in a tensor."""

EMPTY = b"\x00"
PADDING = RAW + b"\x80\x80\x08" + bytes(2**17)
"""A raw tensor that makes a message large."""


@pytest.mark.parametrize("tag", [INPUT, OUTPUT, PARAMETER, RAW])
def test_a_message_of_many_fields_is_rejected(tag: bytes) -> None:
    check_structure(PADDING + (tag + EMPTY) * (MAX_FIELDS - 1), 256)
    with pytest.raises(InvalidRequest, match="more than 20000 fields"):
        check_structure(PADDING + (tag + EMPTY) * MAX_FIELDS, 256)


def test_a_message_with_many_fields_in_a_tensor_is_rejected() -> None:
    size = 2 * MAX_FIELDS
    tensor = INPUT + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14))
    with pytest.raises(InvalidRequest, match="more than 20000 fields"):
        check_structure(tensor + (PARAMETER + EMPTY) * MAX_FIELDS + PADDING, 256)


@pytest.mark.parametrize(
    "raw", [b"\xff" * 2**17, PADDING[:-1], b"\x0b" * 2**17, PADDING + b"\x2a\xff"]
)
def test_what_is_no_message_is_left_to_the_parser(raw: bytes) -> None:
    check_structure(raw, 256)


def test_a_large_valid_message_is_accepted() -> None:
    check_structure(infer_request(np.zeros((5_000, 4), np.float32)).SerializeToString(), 256)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("int_contents", 1),
        ("int_contents", -1),
        ("int64_contents", 300),
        ("uint64_contents", 2**64 - 1),
        ("bool_contents", True),
        ("fp32_contents", 0.5),
        ("fp64_contents", 0.5),
        ("bytes_contents", b""),
    ],
)
def test_values_far_beyond_those_of_the_model_are_not_parsed(field: str, value: object) -> None:
    def message(count: int) -> bytes:
        request = pb.ModelInferRequest(model_name="shirts", id="a1")
        for name, size in (("a", count // 2), ("b", count - count // 2)):
            request.inputs.add(name=name)
            getattr(request.inputs[-1].contents, field).extend([value] * size)
        raw: bytes = request.SerializeToString()
        return raw

    most = 256 + MAX_EXTRA_VALUES
    check_structure(message(most), 256)
    check_structure(message(most + 1), math.inf)
    with pytest.raises(InvalidRequest, match=r"far more values .* at most 256"):
        check_structure(message(most + 1), 256)


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
