from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.grpc.codec import CONTENTS, parse_request, render_response
from serving.protocol.messages import InferResponse
from serving.protocol.tensor import from_raw
from tests.serving.protocol.grpc.calls import value
from tests.serving.protocol.malformed.case import Malformed, X
from tests.serving.protocol.malformed.table import GRPC_MESSAGES, each
from variants.catalog.datatype import DATATYPE, NUMPY

EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    **{
        name: [np.iinfo(NUMPY[name]).min, 0, np.iinfo(NUMPY[name]).max]
        for name in CONTENTS
        if NUMPY[name].kind in "iu"
    },
    "FP32": [0.1, -np.inf, np.nan],
    "FP64": [0.1, 1e308, np.nan],
    "BYTES": [b"", b"\x00\xff", b"text"],
}


def typed(datatype: str, values: Any, shape: Any = None) -> Any:
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(
        name="x", datatype=datatype, shape=[len(values)] if shape is None else shape
    )
    getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return message


def assert_same(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "O":
        assert actual.tolist() == expected.tolist()
    else:
        assert actual.tobytes() == expected.tobytes()


def test_every_datatype_has_its_field_unless_it_can_only_be_raw() -> None:
    assert NUMPY.keys() - CONTENTS.keys() == {"FP16", "BF16"}
    assert EXTREMES.keys() == CONTENTS.keys()
    fields = {field.name for field in pb.InferTensorContents.DESCRIPTOR.fields}
    assert set(CONTENTS.values()) == fields


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_may_have_every_value_of_their_datatype(datatype: str) -> None:
    values = EXTREMES[datatype]
    request = parse_request(typed(datatype, values))
    assert_same(request.inputs["x"], np.array(values, NUMPY[datatype]))


def test_typed_contents_are_in_row_major_order() -> None:
    array = parse_request(typed("INT32", range(6), [2, 3])).inputs["x"]
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("datatype", CONTENTS)
def test_an_empty_shape_has_no_contents(datatype: str) -> None:
    assert parse_request(typed(datatype, [], [0, 4])).inputs["x"].shape == (0, 4)


@pytest.mark.parametrize("datatype", [name for name in NUMPY if name != "BYTES"])
def test_raw_contents_are_a_view_of_the_message(datatype: str) -> None:
    array = np.arange(6).astype(NUMPY[datatype]).reshape(2, 3)
    message = pb.ModelInferRequest(raw_input_contents=[array.tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=[2, 3])
    parsed = parse_request(message).inputs["x"]
    assert_same(parsed, array)
    assert not parsed.flags.owndata


def test_raw_contents_are_in_the_order_of_the_inputs() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\x01", b"\x03\x00\x00\x00abc"])
    message.inputs.add(name="b", datatype="UINT8", shape=[1])
    message.inputs.add(name="a", datatype="BYTES", shape=[1])
    inputs = parse_request(message).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {"b": [1], "a": [b"abc"]}


def test_empty_contents_may_stand_beside_raw_contents() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\x01"])
    tensor = message.inputs.add(name="x", datatype="UINT8", shape=[1])
    tensor.contents.SetInParent()
    assert parse_request(message).inputs["x"].tolist() == [1]


def test_parameters_keep_their_types() -> None:
    message = typed("UINT8", [1])
    message.parameters["flag"].bool_param = False
    message.parameters["whole"].int64_param = -(2**63)
    message.parameters["large"].uint64_param = 2**64 - 1
    message.parameters["number"].double_param = 0.1
    message.parameters["text"].string_param = ""
    parameters = parse_request(message).parameters
    assert parameters == {
        "flag": False,
        "whole": -(2**63),
        "large": 2**64 - 1,
        "number": 0.1,
        "text": "",
    }
    assert parameters["flag"] is False


def test_missing_fields_are_empty_and_outputs_keep_their_order() -> None:
    message = typed("UINT8", [1])
    request = parse_request(message)
    assert (request.id, request.outputs, request.parameters) == (None, {}, {})
    message.id = "a"
    for name in ("z", "y"):
        message.outputs.add(name=name)
    request = parse_request(message)
    assert (request.id, list(request.outputs)) == ("a", ["z", "y"])


@each(GRPC_MESSAGES)
def test_a_malformed_message_raises_the_error_of_its_rule(case: Malformed) -> None:
    with pytest.raises(case.error) as caught:
        parse_request(case.grpc)
    assert case.message in str(caught.value)
    assert caught.value.request_id == case.id


def test_the_message_that_the_cases_change_is_well_formed() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[bytes(8)])
    message.inputs.add(**X)
    assert parse_request(message).inputs["x"].tolist() == [0, 0]


ARRAYS = st.sampled_from([dtype for name, dtype in NUMPY.items() if name != "BYTES"]).flatmap(
    lambda dtype: npst.arrays(
        np.uint8 if dtype == ml_dtypes.bfloat16 else dtype,
        npst.array_shapes(min_dims=0, min_side=0),
    ).map(lambda array: array.astype(dtype))
)


@given(ARRAYS)
def test_rendered_outputs_are_read_back_unchanged(array: npt.NDArray[Any]) -> None:
    message = render_response(InferResponse("m", "v", {"y": array}))
    (output,), (raw,) = message.outputs, message.raw_output_contents
    assert output.name == "y"
    assert output.datatype == DATATYPE[array.dtype]
    assert_same(from_raw(output.datatype, tuple(output.shape), raw, "y"), array)


def test_an_array_that_is_not_contiguous_is_sent_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    (raw,) = render_response(InferResponse("m", "v", {"y": array})).raw_output_contents
    assert np.frombuffer(raw, np.int32).tolist() == [0, 3, 1, 4, 2, 5]


def test_bytes_are_sent_with_their_lengths() -> None:
    array = np.array([b"ab", b""], object)
    message = render_response(InferResponse("m", "v", {"y": array}))
    assert message.outputs[0].datatype == "BYTES"
    assert message.raw_output_contents[0] == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_a_response_has_names_id_and_typed_parameters() -> None:
    parameters = {"a": True, "b": 7, "c": 0.5, "d": "text", "e": 2**64 - 1}
    message = render_response(InferResponse("m", "v", {}, "a-1", parameters))
    assert (message.model_name, message.model_version, message.id) == ("m", "v", "a-1")
    assert {name: value(each) for name, each in message.parameters.items()} == parameters
    kinds = {name: each.WhichOneof("parameter_choice") for name, each in message.parameters.items()}
    assert kinds == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "double_param",
        "d": "string_param",
        "e": "uint64_param",
    }
    assert render_response(InferResponse("m", "v", {})).id == ""
