"""Malformed requests to infer, each with what it must be told: for the codec, and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from variants.datatype import NUMPY


@dataclass(frozen=True)
class Malformed:
    """A body, what its header says of the length of its JSON part, and the message due."""

    rule: str
    body: bytes
    message: str
    json_length: int | None = None


X: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}


def request(rule: str, message: str, **document: Any) -> Malformed:
    """A well-formed request, but for what is said."""
    return Malformed(rule, orjson.dumps({"inputs": [X], **document}), message)


def tensor(rule: str, message: str, **fields: Any) -> Malformed:
    """A request with one input that is well-formed, but for what is said."""
    return request(rule, message, inputs=[{**X, **fields}])


def binary(rule: str, message: str, raw: bytes, size: Any = 8, **fields: Any) -> Malformed:
    """A request with one binary input, FP32 of shape [2] but for what is said, before `raw`."""
    own = {**X, "parameters": {"binary_data_size": size}, **fields}
    if "data" not in fields:
        del own["data"]
    head = orjson.dumps({"inputs": [own]})
    return Malformed(rule, head + raw, message, len(head))


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in X.items() if name != field}


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


JSON_LENGTH = "the header Inference-Header-Content-Length says"
NUMBERS = "input 'x': data must be numbers, without null or text"
WHOLE = "input 'x': data must be whole numbers, without null or text"
RANGE = "input 'x': data has a value outside the range of its datatype"
DIMENSION = "input 'x': shape must hold whole numbers of at least 0, got"
DATATYPES = f"input 'x': datatype must be one of {', '.join(NUMPY)}"
WELL_FORMED = orjson.dumps({"inputs": [X]})
NOT_JSON = "the body is not valid JSON: "

MALFORMED = (
    Malformed("an empty body", b"", NOT_JSON),
    Malformed("no JSON", b"pixels", NOT_JSON),
    Malformed("JSON that ends early", WELL_FORMED[:-1], NOT_JSON),
    Malformed("two documents", WELL_FORMED * 2, NOT_JSON),
    Malformed("bytes that are no UTF-8", b'{"inputs": "\xff\xfe"}', NOT_JSON),
    Malformed("half a surrogate pair", rb'{"id": "\ud800"}', NOT_JSON),
    Malformed("NaN, which Python writes", WELL_FORMED.replace(b"[1,", b"[NaN,"), NOT_JSON),
    Malformed("Infinity, too", WELL_FORMED.replace(b"[1,", b"[-Infinity,"), NOT_JSON),
    Malformed("a number beyond any", WELL_FORMED.replace(b"[1,", b"[1e999,"), NOT_JSON),
    Malformed("deeper than anybody reads", deep(100_000), NOT_JSON),
    Malformed("a list", b"[]", "the body must be a JSON object"),
    Malformed("null", b"null", "the body must be a JSON object"),
    Malformed("no inputs field", b"{}", "inputs must be a list"),
    Malformed("a JSON length of 0", WELL_FORMED, f"{JSON_LENGTH} 0, but the body has", 0),
    Malformed("a JSON length beyond the body", b"{}", f"{JSON_LENGTH} 3, but the body has 2", 3),
    Malformed("a JSON length within the JSON", WELL_FORMED, NOT_JSON, len(WELL_FORMED) - 1),
    request("inputs that are an object", "inputs must be a list", inputs={"x": X}),
    request("no inputs", "inputs must hold at least one tensor", inputs=[]),
    request("an input that is no object", "inputs[1] must be a JSON object", inputs=[X, 5]),
    request("an input without a name", "inputs[0] must have a name", inputs=[without("name")]),
    request("two inputs of one name", "input names must be unique, got 'x' twice", inputs=[X, X]),
    request("an id that is a number", "id must be a string, got 7", id=7),
    request("parameters that are a list", "parameters must be a JSON object", parameters=[]),
    request(
        "binary_data_output that is no flag",
        "parameters: binary_data_output must be true or false, got 'yes'",
        parameters={"binary_data_output": "yes"},
    ),
    request("outputs that are a name", "outputs must be a list", outputs="y"),
    request("an output that is a name", "outputs[0] must be a JSON object", outputs=["y"]),
    request("an output without a name", "outputs[0] must have a name", outputs=[{}]),
    request(
        "two outputs of one name",
        "output names must be unique, got 'y' twice",
        outputs=[{"name": "y"}, {"name": "y"}],
    ),
    request(
        "binary_data that is no flag",
        "outputs[0].parameters: binary_data must be true or false, got 1",
        outputs=[{"name": "y", "parameters": {"binary_data": 1}}],
    ),
    tensor("an empty name", "inputs[0] must have a name", name=""),
    tensor("a name that is a number", "inputs[0] must have a name", name=1),
    request("no shape", "input 'x': shape must be a list", inputs=[without("shape")]),
    tensor("a shape that is a number", "input 'x': shape must be a list", shape=2),
    tensor("a negative dimension", f"{DIMENSION} -1", shape=[-1]),
    tensor("a dimension that is text", f"{DIMENSION} '2'", shape=["2"]),
    tensor("a dimension with a point", f"{DIMENSION} 2.0", shape=[2.0]),
    tensor("a dimension that is true", f"{DIMENSION} True", shape=[True, 2]),
    tensor("too many dimensions", "input 'x': shape has over 8 dimensions", shape=[1] * 8 + [2]),
    tensor("an empty shape beyond any address", "is larger than any tensor", shape=[0, 2**63]),
    tensor("a product beyond any address", "is larger than any tensor", shape=[2**40, 2**40, 0]),
    request("no datatype", DATATYPES, inputs=[without("datatype")]),
    tensor("an unknown datatype", DATATYPES, datatype="FP8"),
    tensor("a datatype in lower case", DATATYPES, datatype="fp32"),
    tensor("text, which no model takes", DATATYPES, datatype="BYTES", data=["a", "b"]),
    tensor("a datatype that is a list", DATATYPES, datatype=["FP32"]),
    tensor("a datatype that is null", DATATYPES, datatype=None),
    request("no data", "input 'x': data must be a list of values", inputs=[without("data")]),
    tensor("data that is a number", "input 'x': data must be a list of values", data=1),
    tensor("data that is an object", "input 'x': data must be a list of values", data={"0": 1}),
    tensor("too little data", "input 'x': shape [2] holds 2 values, data has 1", data=[1]),
    tensor("too much data", "input 'x': shape [2] holds 2 values, data has 3", data=[1, 2, 3]),
    tensor("data for an empty shape", "shape [0] holds 0 values, data has 2", shape=[0]),
    tensor("no data for a scalar", "shape [] holds 1 values, data has 0", shape=[], data=[]),
    tensor("rows of unequal length", "data is nested unevenly", shape=[3], data=[[1, 2], [3]]),
    tensor("numbers among rows", "data is nested unevenly", shape=[2], data=[1, [2]]),
    tensor(
        "another nesting than the shape's",
        "input 'x': data is nested as [3, 2], shape says [2, 3]",
        shape=[2, 3],
        data=[[1, 2], [3, 4], [5, 6]],
    ),
    tensor("data too deep", "data is nested over 8 deep", shape=[1], data=orjson.loads(deep(50))),
    tensor("text among numbers", NUMBERS, data=[1, "2"]),
    tensor("null among numbers", NUMBERS, data=[1, None]),
    tensor("objects among numbers", NUMBERS, data=[1, {}]),
    tensor("booleans for numbers", NUMBERS, data=[True, False]),
    tensor("a boolean among numbers", NUMBERS, data=[1, True]),
    tensor(
        "long text in a long list",
        NUMBERS,
        shape=[10_001],
        data=["x" * 50_000] + ["a"] * 10_000,
    ),
    tensor("a point in a whole number", WHOLE, datatype="INT32", data=[1, 2.5]),
    tensor("2.0 for a whole number", WHOLE, datatype="INT32", data=[1, 2.0]),
    tensor("booleans for whole numbers", WHOLE, datatype="UINT8", data=[True, False]),
    tensor("numbers for booleans", "data must be booleans", datatype="BOOL", data=[1, 0]),
    tensor("more than INT8 holds", RANGE, datatype="INT8", data=[1, 128]),
    tensor("less than UINT8 holds", RANGE, datatype="UINT8", data=[0, -1]),
    tensor("more than INT64 holds", RANGE, datatype="INT64", data=[1, 2**63]),
    tensor("more than FP16 holds", RANGE, datatype="FP16", data=[1, 70_000]),
    tensor("more than FP32 holds", RANGE, data=[1, 1e39]),
    tensor("parameters of an input that are a list", "must be a JSON object", parameters=[]),
    binary("both data and binary", "give either data or binary_data_size", bytes(8), data=[1, 2]),
    binary("a size that is text", "binary_data_size must be a whole number", bytes(8), "8"),
    binary("a size that is true", "binary_data_size must be a whole number", bytes(8), True),
    binary("a negative size", "binary_data_size must be a whole number", bytes(8), -8),
    binary("a size of 8.0", "binary_data_size must be a whole number", bytes(8), 8.0),
    binary("a size that is not the shape's", "takes 8 bytes, binary_data_size is 4", bytes(8), 4),
    binary("a size beyond the body", "is 8, but only 7 bytes of the body are left", bytes(7)),
    binary("bytes after the tensors", "1 bytes follow the tensors that the inputs", bytes(9)),
    binary("bytes nobody described", "8 bytes follow the tensors", bytes(8), None, data=[1, 2]),
    binary("a huge binary tensor", "is larger than any tensor", b"", 0, shape=[0, 2**62, 4]),
    Malformed(
        "an id deeper than the interpreter recurses",
        b'{"inputs":[' + orjson.dumps(X) + b'],"id":' + deep(1000) + b"}",
        "id must be a string, got [",
    ),
    Malformed(
        "a dimension deeper than the interpreter recurses",
        WELL_FORMED.replace(b'"shape":[2]', b'"shape":[' + deep(1000) + b"]"),
        DIMENSION,
    ),
)
