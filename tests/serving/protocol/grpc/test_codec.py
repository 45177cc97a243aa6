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

from serving.errors import STATUS, ServingError
from serving.protocol.grpc.codec import CONTENTS, parse_request, render_response
from serving.protocol.messages import InferResponse
from serving.protocol.tensor import from_raw
from tests.serving.protocol.grpc.calls import value
from tests.serving.protocol.grpc.malformed import MALFORMED, Malformed, X
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
    own = message.inputs.add(
        name="x", datatype=datatype, shape=[len(values)] if shape is None else shape
    )
    getattr(own.contents, CONTENTS[datatype]).extend(values)
    return message


def assert_same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "O":
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


def test_every_datatype_has_its_field_unless_it_can_only_be_raw() -> None:
    assert NUMPY.keys() - CONTENTS.keys() == {"FP16", "BF16"}
    assert EXTREMES.keys() == CONTENTS.keys()
    fields = {field.name for field in pb.InferTensorContents.DESCRIPTOR.fields}
    assert set(CONTENTS.values()) == fields


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_become_an_array_to_the_ends_of_their_range(datatype: str) -> None:
    values = EXTREMES[datatype]
    request = parse_request(typed(datatype, values))
    assert_same(request.inputs["x"], np.array(values, NUMPY[datatype]))


def test_typed_contents_are_in_row_major_order() -> None:
    found = parse_request(typed("INT32", range(6), [2, 3])).inputs["x"]
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("datatype", CONTENTS)
def test_an_empty_shape_has_no_contents(datatype: str) -> None:
    assert parse_request(typed(datatype, [], [0, 4])).inputs["x"].shape == (0, 4)


@pytest.mark.parametrize("datatype", [name for name in NUMPY if name != "BYTES"])
def test_raw_contents_are_a_view_of_the_message(datatype: str) -> None:
    array = np.arange(6).astype(NUMPY[datatype]).reshape(2, 3)
    message = pb.ModelInferRequest(raw_input_contents=[array.tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=[2, 3])
    found = parse_request(message).inputs["x"]
    assert_same(found, array)
    assert not found.flags.owndata


def test_raw_contents_belong_to_the_inputs_in_their_order() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\x01", b"\x03\x00\x00\x00abc"])
    message.inputs.add(name="b", datatype="UINT8", shape=[1])
    message.inputs.add(name="a", datatype="BYTES", shape=[1])
    found = parse_request(message).inputs
    assert {name: array.tolist() for name, array in found.items()} == {"b": [1], "a": [b"abc"]}


def test_contents_that_are_set_but_empty_may_stand_beside_raw_ones() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\x01"])
    own = message.inputs.add(name="x", datatype="UINT8", shape=[1])
    own.contents.SetInParent()
    assert parse_request(message).inputs["x"].tolist() == [1]


def test_parameters_keep_their_types() -> None:
    message = typed("UINT8", [1])
    message.parameters["flag"].bool_param = False
    message.parameters["whole"].int64_param = -(2**63)
    message.parameters["large"].uint64_param = 2**64 - 1
    message.parameters["number"].double_param = 0.1
    message.parameters["text"].string_param = ""
    found = parse_request(message).parameters
    assert found == {
        "flag": False,
        "whole": -(2**63),
        "large": 2**64 - 1,
        "number": 0.1,
        "text": "",
    }
    assert found["flag"] is False


def test_what_is_not_said_is_none_and_outputs_are_kept_in_order() -> None:
    message = typed("UINT8", [1])
    request = parse_request(message)
    assert (request.id, request.outputs, request.parameters) == (None, {}, {})
    message.id = "a"
    for name in ("z", "y"):
        message.outputs.add(name=name)
    request = parse_request(message)
    assert (request.id, list(request.outputs)) == ("a", ["z", "y"])


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.rule)
def test_a_malformed_message_is_refused_with_what_would_be_right(case: Malformed) -> None:
    with pytest.raises(ServingError) as caught:
        parse_request(case.message)
    assert case.text in str(caught.value)
    assert STATUS[type(caught.value)].grpc == case.status
    assert caught.value.request_id == "a-1"


def test_the_table_starts_from_a_request_that_is_well_formed() -> None:
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
def test_what_is_rendered_is_what_a_client_reads(array: npt.NDArray[Any]) -> None:
    message = render_response(InferResponse("m", "v", {"y": array}))
    (own,), (raw,) = message.outputs, message.raw_output_contents
    assert own.name == "y"
    assert own.datatype == DATATYPE[array.dtype]
    assert_same(from_raw(own.datatype, tuple(own.shape), raw, "y"), array)


def test_an_array_that_is_not_contiguous_is_sent_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    (raw,) = render_response(InferResponse("m", "v", {"y": array})).raw_output_contents
    assert np.frombuffer(raw, np.int32).tolist() == [0, 3, 1, 4, 2, 5]


def test_bytes_are_sent_with_their_lengths() -> None:
    array = np.array([b"ab", b""], object)
    message = render_response(InferResponse("m", "v", {"y": array}))
    assert message.outputs[0].datatype == "BYTES"
    assert message.raw_output_contents[0] == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_an_answer_has_its_names_its_id_and_typed_parameters() -> None:
    parameters = {"a": True, "b": 7, "c": 0.5, "d": "text", "e": 2**64 - 1}
    message = render_response(InferResponse("m", "v", {}, "a-1", parameters))
    assert (message.model_name, message.model_version, message.id) == ("m", "v", "a-1")
    assert {name: value(own) for name, own in message.parameters.items()} == parameters
    kinds = {name: own.WhichOneof("parameter_choice") for name, own in message.parameters.items()}
    assert kinds == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "double_param",
        "d": "string_param",
        "e": "uint64_param",
    }
    assert render_response(InferResponse("m", "v", {})).id == ""
