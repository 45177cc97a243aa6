from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequest
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.messages import InferRequest, InferResponse
from serving.protocol.tensor import MAX_DIMENSIONS, MAX_TENSORS
from tests.tensors import JSON_DATATYPES, Array, assert_equal, named_arrays, sample_array
from variants.catalog.datatype import DATATYPE, NUMPY
from variants.catalog.raw import from_raw, to_raw

shapes = arrays.array_shapes(min_dims=0, max_dims=MAX_DIMENSIONS, min_side=0, max_side=3)
names = st.text(min_size=1)
tensors = named_arrays(names, NUMPY, shapes)
json_tensors = named_arrays(names, JSON_DATATYPES, shapes, in_json=True)


def described(name: str, array: Array, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPE[array.dtype], "shape": array.shape, **more}


def in_json(arrays: Mapping[str, Array], *, flat: bool) -> bytes:
    """Return the body of a JSON request."""
    return orjson.dumps(
        {
            "inputs": [
                described(name, array, data=values(array.ravel() if flat else array))
                for name, array in arrays.items()
            ]
        }
    )


def values(array: Array) -> list[Any]:
    """Return the values in the form of JSON, with the nesting of the array."""
    nested = as_text(array.tolist())
    return nested if isinstance(nested, list) else [nested]


def as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def in_binary(arrays: Mapping[str, Array], **document: Any) -> tuple[bytes, int]:
    """Return the body of a request with binary tensors, and the length of its JSON part."""
    head = orjson.dumps(
        {
            "inputs": [
                described(name, array, parameters={"binary_data_size": len(to_raw(array))})
                for name, array in arrays.items()
            ],
            **document,
        }
    )
    return head + b"".join(map(to_raw, arrays.values())), len(head)


def read(body: bytes, json_length: int | None) -> dict[str, Array]:
    """Return the outputs of a response, as a client reads them."""
    document = orjson.loads(body[:json_length])
    position = json_length or len(body)
    arrays = {}
    for output in document["outputs"]:
        dtype = NUMPY[output["datatype"]]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            array = from_raw(body[position : position + size], dtype, tuple(output["shape"]))
            position += size
        elif dtype.kind == "O":
            array = np.array([text.encode() for text in output["data"]], dtype)
        else:
            array = np.array(output["data"], dtype)
        arrays[output["name"]] = array.reshape(output["shape"])
    assert position == len(body), "no bytes follow the last tensor"
    return arrays


@given(json_tensors, st.booleans())
def test_json_inputs_are_read_back_unchanged(inputs: dict[str, Array], flat: bool) -> None:
    assert_equal(parse_request(in_json(inputs, flat=flat), None).inputs, inputs)


@given(tensors)
def test_binary_inputs_are_read_back_unchanged(inputs: dict[str, Array]) -> None:
    assert_equal(parse_request(*in_binary(inputs)).inputs, inputs)


@given(json_tensors)
def test_the_json_length_may_be_that_of_the_whole_body(inputs: dict[str, Array]) -> None:
    body = in_json(inputs, flat=True)
    assert_equal(parse_request(body, len(body)).inputs, inputs)


@given(json_tensors, st.data())
def test_json_and_binary_inputs_can_be_mixed(inputs: dict[str, Array], data: st.DataObject) -> None:
    binary = {name for name in inputs if data.draw(st.booleans())}
    described_inputs = [
        described(name, array, parameters={"binary_data_size": len(to_raw(array))})
        if name in binary
        else described(name, array, data=values(array.ravel()))
        for name, array in inputs.items()
    ]
    head = orjson.dumps({"inputs": described_inputs})
    body = head + b"".join(to_raw(inputs[name]) for name in inputs if name in binary)
    assert_equal(parse_request(body, len(head)).inputs, inputs)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        pytest.param("UINT64", [0, 2**63 + 1], id="beyond INT64"),
        pytest.param("UINT64", [2**64 - 1, 2**53 + 1], id="the largest of UINT64"),
        pytest.param("INT64", [-(2**63), 2**63 - 1], id="the limits of INT64"),
        pytest.param("INT64", [2**53 + 1, -(2**53) - 1], id="beyond the precision of a double"),
    ],
)
def test_json_inputs_keep_every_digit_of_integers(datatype: str, data: list[int]) -> None:
    document = {"name": "x", "datatype": datatype, "shape": [2], "data": data}
    body = orjson.dumps({"inputs": [document]})
    assert parse_request(body, None).inputs["x"].tolist() == data


def test_binary_inputs_are_views_of_the_body() -> None:
    body, length = in_binary({"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    array = parse_request(body, length).inputs["x"]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


ONE = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({}, InferRequest({}), id="inputs only"),
        pytest.param({"id": "a1"}, InferRequest({}, id="a1"), id="an id"),
        pytest.param({"id": ""}, InferRequest({}, id=""), id="an empty id"),
        pytest.param(
            {"id": None, "parameters": None, "outputs": None},
            InferRequest({}),
            id="null fields",
        ),
        pytest.param(
            {"parameters": {"priority": 1, "sequence_id": "s"}},
            InferRequest({}, parameters={"priority": 1, "sequence_id": "s"}),
            id="parameters",
        ),
        pytest.param(
            {"outputs": [{"name": "b"}, {"name": "a"}]},
            InferRequest({}, outputs={"b": False, "a": False}),
            id="outputs in order",
        ),
        pytest.param(
            {"parameters": {"binary_data_output": True}},
            InferRequest({}, parameters={"binary_data_output": True}, binary_output=True),
            id="all outputs as binary",
        ),
        pytest.param(
            {"outputs": [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]},
            InferRequest({}, outputs={"a": True, "b": False}),
            id="one output as binary",
        ),
        pytest.param(
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
            },
            InferRequest(
                {},
                parameters={"binary_data_output": True},
                outputs={"a": False, "b": True},
                binary_output=True,
            ),
            id="an output beside the default",
        ),
        pytest.param({"model_name": "m", "x": [1]}, InferRequest({}), id="unknown fields"),
    ],
)
def test_the_fields_beside_the_inputs(document: dict[str, Any], expected: InferRequest) -> None:
    request = parse_request(orjson.dumps({"inputs": [ONE], **document}), None)
    assert_equal(request.inputs, {"x": np.array([1], np.float32)})
    for name in ("id", "parameters", "outputs", "binary_output"):
        assert getattr(request, name) == getattr(expected, name)
    assert list(request.outputs) == list(expected.outputs)


def test_the_maximum_number_of_inputs_and_outputs() -> None:
    inputs = [{**ONE, "name": str(i)} for i in range(MAX_TENSORS)]
    outputs = [{"name": str(i)} for i in range(MAX_TENSORS)]
    request = parse_request(orjson.dumps({"inputs": inputs, "outputs": outputs}), None)
    assert len(request.inputs) == len(request.outputs) == MAX_TENSORS


@given(tensors, json_tensors, st.data())
def test_outputs_are_read_back_unchanged(
    any_tensors: dict[str, Array], in_json: dict[str, Array], data: st.DataObject
) -> None:
    default = data.draw(st.booleans())
    binary = {name: data.draw(st.booleans()) for name in in_json if data.draw(st.booleans())}
    outputs = in_json | any_tensors
    binary |= dict.fromkeys(any_tensors, True)
    response = InferResponse("shirts", "int8", outputs)
    body, json_length = render_response(response, binary, default)
    assert_equal(read(body, json_length), outputs)
    as_binary = [name for name in outputs if binary.get(name, default)]
    assert (json_length is not None) == bool(as_binary)
    written = orjson.loads(body[:json_length])["outputs"]
    assert [output["name"] for output in written if "data" not in output] == as_binary


def test_a_response_has_model_variant_id_and_parameters() -> None:
    response = InferResponse("shirts", "int8", {}, id="a1", parameters={"accuracy": 0.88})
    assert orjson.loads(render_response(response, {}, False)[0]) == {
        "model_name": "shirts",
        "model_version": "int8",
        "id": "a1",
        "parameters": {"accuracy": 0.88},
        "outputs": [],
    }


def test_a_response_without_an_id_has_none() -> None:
    body, _ = render_response(InferResponse("shirts", "int8", {}), {}, False)
    assert "id" not in orjson.loads(body)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(12, dtype=np.float32).reshape(3, 4).T, id="transposed"),
        pytest.param(np.arange(12, dtype=np.float32)[::2], id="with a step"),
        pytest.param(np.arange(4, dtype=np.float32)[::-1], id="reversed"),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_an_output_is_written_in_row_major_order(array: Array, binary: bool) -> None:
    response = InferResponse("shirts", "int8", {"y": array})
    assert_equal(read(*render_response(response, {}, binary)), {"y": array})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_json_cannot_represent_are_null(dtype: type) -> None:
    outputs: dict[str, Array] = {"y": np.array([[-0.0, np.nan], [np.inf, -np.inf]], dtype)}
    body, _ = render_response(InferResponse("shirts", "int8", outputs), {}, False)
    assert b"[-0.0,null,null,null]" in body


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_an_output_without_a_json_form_is_always_binary(datatype: str) -> None:
    outputs = {"half": sample_array(datatype, (4, 3)), "label": np.array([1])}
    response = InferResponse("shirts", "int8", outputs)
    body, length = render_response(response, {"half": False, "label": False}, False)
    assert_equal(read(body, length), outputs)
    assert ["data" in output for output in orjson.loads(body[:length])["outputs"]] == [False, True]


def test_outputs_keep_every_digit_of_integers() -> None:
    outputs = {"y": np.array([2**64 - 1, 2**53 + 1], np.uint64)}
    body, _ = render_response(InferResponse("shirts", "int8", outputs), {}, False)
    assert b"[18446744073709551615,9007199254740993]" in body


def test_bytes_that_are_not_utf8_can_only_be_sent_as_binary() -> None:
    outputs = {"y": np.array([b"\xff\x00", b"ok"], "O")}
    response = InferResponse("shirts", "int8", outputs, id="a1")
    with pytest.raises(InvalidRequest, match=r"'y' has bytes that are not UTF-8.*true") as caught:
        render_response(response, {}, False)
    assert caught.value.request_id == "a1"
    assert_equal(read(*render_response(response, {"y": True}, False)), outputs)


def test_binary_outputs_keep_values_that_json_cannot_represent() -> None:
    outputs = {"y": np.array([1.0, np.nan, np.inf, -np.inf], np.float32)}
    response = InferResponse("shirts", "int8", outputs)
    assert_equal(read(*render_response(response, {}, True)), outputs)
