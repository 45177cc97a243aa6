from __future__ import annotations

import numpy as np
import pytest

from serving.errors import InvalidRequest
from serving.protocol.http.codec import parse_raw_request, parse_request
from serving.protocol.messages import InferRequest
from tests.tensors import assert_equal, sample_array
from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.raw import to_raw


def spec(datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, *shape)})


@pytest.mark.parametrize("datatype", sorted(NUMPY.keys() - {"BYTES"}))
@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        pytest.param((), (1,), id="one number"),
        pytest.param((2, 3), (1, 2, 3), id="a fixed shape"),
        pytest.param((2, -1, 3), (1, 2, 4, 3), id="a variable dimension"),
    ],
)
def test_the_body_is_one_sample(
    datatype: str, declared: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    array = sample_array(datatype, shape)
    body = bytes(to_raw(array))
    request = parse_request(body, 0, (spec(datatype, *declared),))
    assert_equal(request.inputs, {"x": array})
    assert np.shares_memory(request.inputs["x"], np.frombuffer(body, np.uint8))


def test_a_raw_request_gets_all_outputs_as_binary() -> None:
    request = parse_raw_request(bytes(4), (spec("FP32"),))
    inputs = request.inputs
    assert request == InferRequest(inputs, id=None, parameters={}, outputs={}, binary_output=True)


@pytest.mark.parametrize("declared", [(), (1,), (1, 1), (-1,)])
def test_the_body_of_a_bytes_input_is_its_only_element_without_a_length(
    declared: tuple[int, ...],
) -> None:
    body = b'{"inputs": \xff\0\0'
    array = parse_request(body, 0, (spec("BYTES", *declared),)).inputs["x"]
    assert (array.dtype, array.shape) == (NUMPY["BYTES"], (1,) * (1 + len(declared)))
    assert array.item() == body


@pytest.mark.parametrize(
    ("inputs", "body", "message"),
    [
        pytest.param(
            [spec("FP32"), spec("FP32")], bytes(8), "one input, this one has 2", id="two inputs"
        ),
        pytest.param([], bytes(8), "one input, this one has 0", id="no input"),
        pytest.param(
            [spec("FP32", -1, -1)],
            bytes(4),
            "more than one variable dimension",
            id="two variable dimensions",
        ),
        pytest.param(
            [spec("FP32", 3)], bytes(16), r"\[1, 3\] of FP32 takes 12 bytes, not 16", id="too long"
        ),
        pytest.param(
            [spec("FP32", -1, 2)],
            bytes(20),
            r"\[1, 2, 2\] of FP32 takes 16 bytes, not 20",
            id="a fraction of a row",
        ),
        pytest.param([spec("INT8", -1, 0)], b"a", "takes 0 bytes, not 1", id="an empty shape"),
        pytest.param([spec("BOOL", 1)], b"\2", "a byte of 0 or 1", id="not a boolean"),
        pytest.param([spec("BYTES", 2)], b"ab", "has 2 elements of BYTES", id="two elements"),
        pytest.param(
            [spec("BYTES", -1, 3)],
            b"a",
            "has 3 elements of BYTES",
            id="three elements by a variable dimension",
        ),
    ],
)
def test_a_raw_request_that_does_not_fit_the_input_is_rejected(
    inputs: list[TensorSpec], body: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_request(body, 0, inputs)
