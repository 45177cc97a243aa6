"""Malformed requests to infer, each with what it must be told: for the codec, and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import NUMPY

INPUTS = (TensorSpec(name="pixels", datatype="FP32", shape=(-1, 4)),)
"""Of the model that the requests are for: that of `tests.serving.builders`."""


@dataclass(frozen=True)
class Malformed:
    """A body, what its header says of the length of its JSON part, and the message due.

    `id` is the request's own, which its refusal must know.
    """

    rule: str
    body: bytes
    message: str
    json_length: int | None = None
    id: str | None = None


X: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}


def request(rule: str, message: str, **document: Any) -> Malformed:
    """A well-formed request with an id, but for what is said."""
    whole = {"id": "a1", "inputs": [X], **document}
    return Malformed(rule, orjson.dumps(whole), message, id="a1" if whole["id"] == "a1" else None)


def tensor(rule: str, message: str, **fields: Any) -> Malformed:
    """A request with one input that is well-formed, but for what is said."""
    return request(rule, message, inputs=[{**X, **fields}])


def binary(rule: str, message: str, raw: bytes, size: Any = 8, **fields: Any) -> Malformed:
    """A request with one binary input, FP32 of shape [2] but for what is said, before `raw`."""
    own = {**X, "parameters": {"binary_data_size": size}, **fields}
    if "data" not in fields:
        del own["data"]
    head = orjson.dumps({"inputs": [own], "id": "a1"})
    return Malformed(rule, head + raw, message, len(head), "a1")


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in X.items() if name != field}


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


JSON_LENGTH = "the header Inference-Header-Content-Length is"
NUMBERS = "input 'x': data must be numbers; null and strings are not allowed"
WHOLE = "input 'x': data must be integers; null and strings are not allowed"
TEXT = "input 'x': data must be strings; null and numbers are not allowed"
RANGE = "input 'x': data has a value outside the range of its datatype"
UNEVEN = "input 'x': data must not be a ragged list"
DIMENSION = "input 'x': shape must hold integers of at least 0, got"
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
    Malformed("a JSON length of 0, and no body", b"", f"{JSON_LENGTH} 0, but the body has 0", 0),
    Malformed(
        "a raw request of another length than the input's",
        bytes(15),
        "the raw request for input 'pixels': shape [1, 4] of FP32 takes 16 bytes, not 15",
        0,
    ),
    Malformed("a JSON length beyond the body", b"{}", f"{JSON_LENGTH} 3, but the body has 2", 3),
    Malformed("a JSON length within the JSON", WELL_FORMED, NOT_JSON, len(WELL_FORMED) - 1),
    request("inputs that are an object", "inputs must be a list", inputs={"x": X}),
    request("no inputs", "inputs must hold at least one tensor", inputs=[]),
    request("an input that is no object", "inputs[1] must be a JSON object", inputs=[X, 5]),
    request("an input without a name", "inputs[0] must have a name", inputs=[without("name")]),
    request(
        "two inputs of one name", "input names must be unique, 'x' occurs twice", inputs=[X, X]
    ),
    request(
        "more inputs than are taken",
        "a request may have at most 1000 inputs, this one has 1001",
        inputs=[X] * 1001,
    ),
    request(
        "more outputs than are taken",
        "a request may have at most 1000 outputs, this one has 1001",
        outputs=[{"name": "y"}] * 1001,
    ),
    request("an id that is a number", "id must be a string, got 7", id=7),
    request("parameters that are a list", "parameters must be a JSON object", parameters=[]),
    request(
        "binary_data_output that is no flag",
        "parameters: binary_data_output must be true or false, got 'yes'",
        parameters={"binary_data_output": "yes"},
    ),
    request(
        "a parameter that is a list",
        "parameters: 'variant' must be a string, a number or a boolean",
        parameters={"variant": ["int8"]},
    ),
    request(
        "a parameter that is null",
        "parameters: 'priority' must be a string, a number or a boolean",
        parameters={"priority": None},
    ),
    request(
        "a parameter of an output that is an object",
        "outputs[0].parameters: 'own' must be a string, a number or a boolean",
        outputs=[{"name": "y", "parameters": {"own": {}}}],
    ),
    request("outputs that are a name", "outputs must be a list", outputs="y"),
    request("an output that is a name", "outputs[0] must be a JSON object", outputs=["y"]),
    request("an output without a name", "outputs[0] must have a name", outputs=[{}]),
    request(
        "two outputs of one name",
        "output names must be unique, 'y' occurs twice",
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
    tensor(
        "too many dimensions", "input 'x': shape may have at most 8 dimensions", shape=[1] * 8 + [2]
    ),
    tensor(
        "too many dimensions, none a number", "shape may have at most 8 dimensions", shape=["2"] * 9
    ),
    tensor("an empty shape beyond any address", "is too large", shape=[0, 2**63]),
    tensor("a product beyond any address", "is too large", shape=[2**40, 2**40, 0]),
    request("no datatype", DATATYPES, inputs=[without("datatype")]),
    tensor("an unknown datatype", DATATYPES, datatype="FP8"),
    tensor("a datatype in lower case", DATATYPES, datatype="fp32"),
    tensor("a datatype that is a list", DATATYPES, datatype=["FP32"]),
    tensor("a datatype that is null", DATATYPES, datatype=None),
    request("no data", "input 'x': data must be a list of values", inputs=[without("data")]),
    tensor("data that is a number", "input 'x': data must be a list of values", data=1),
    tensor("data that is an object", "input 'x': data must be a list of values", data={"0": 1}),
    tensor("too little data", "input 'x': shape [2] holds 2 values, data has 1", data=[1]),
    tensor("too much data", "input 'x': shape [2] holds 2 values, data has 3", data=[1, 2, 3]),
    tensor("data for an empty shape", "shape [0] holds 0 values, data has 2", shape=[0]),
    tensor("no data for a scalar", "shape [] holds 1 values, data has 0", shape=[], data=[]),
    tensor("rows of unequal length", UNEVEN, shape=[2, 2], data=[[1, 2], [3]]),
    tensor("a row of two among rows of one", UNEVEN, shape=[2, 1], data=[[1], [2, 3]]),
    tensor("numbers among rows", UNEVEN, shape=[2], data=[1, [2]]),
    tensor("a number among rows of one", UNEVEN, shape=[2, 1], data=[[1], 2]),
    tensor("an object among rows", UNEVEN, shape=[2, 2], data=[[1, 2], {"3": 4, "5": 6}]),
    tensor("a row among the numbers of a row", UNEVEN, shape=[2, 2], data=[[1, 2], [3, [4]]]),
    tensor(
        "rows where the shape has none",
        "input 'x': data is nested as [2, 1], shape is [2]",
        data=[[1], [2]],
    ),
    tensor(
        "a level more than the shape's",
        "input 'x': data is nested as [2, 1, 1], shape is [2, 1]",
        shape=[2, 1],
        data=[[[1]], [[2]]],
    ),
    tensor(
        "an empty row for no rows",
        "input 'x': data is nested as [1, 0], shape is [0, 4]",
        shape=[0, 4],
        data=[[]],
    ),
    tensor(
        "another nesting than the shape's",
        "input 'x': data is nested as [3, 2], shape is [2, 3]",
        shape=[2, 3],
        data=[[1, 2], [3, 4], [5, 6]],
    ),
    tensor(
        "data too deep", "data may be nested at most 8 deep", shape=[1], data=orjson.loads(deep(50))
    ),
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
    tensor("FP16 as JSON", "FP16 cannot be sent as JSON; send the tensor as", datatype="FP16"),
    tensor("BF16 as JSON", "BF16 cannot be sent as JSON; send the tensor as", datatype="BF16"),
    tensor("numbers for text", TEXT, datatype="BYTES", data=[1, 2]),
    tensor("a number among text", TEXT, datatype="BYTES", data=["a", 2]),
    tensor("null among text", TEXT, datatype="BYTES", data=["a", None]),
    tensor("too much text", "holds 2 values, data has 3", datatype="BYTES", data=["a", "b", "c"]),
    tensor("rows among text", UNEVEN, datatype="BYTES", data=["a", ["b"]]),
    tensor("text among rows", UNEVEN, datatype="BYTES", shape=[2, 1], data=[["a"], "b"]),
    tensor(
        "rows of text of unequal length",
        UNEVEN,
        datatype="BYTES",
        shape=[2, 2],
        data=[["a", "b"], ["c"]],
    ),
    tensor(
        "another nesting of text than the shape's",
        "input 'x': data is nested as [1, 2], shape is [2, 1]",
        datatype="BYTES",
        shape=[2, 1],
        data=[["a", "b"]],
    ),
    tensor(
        "text too deep",
        "data may be nested at most 8 deep",
        datatype="BYTES",
        shape=[1],
        data=orjson.loads(deep(50)),
    ),
    tensor("more than FP32 holds", RANGE, data=[1, 1e39]),
    tensor("parameters of an input that are a list", "must be a JSON object", parameters=[]),
    tensor(
        "a parameter of an input that is a list",
        "input 'x': parameters: 'own' must be a string, a number or a boolean",
        parameters={"own": []},
    ),
    binary("both data and binary", "send either data or binary_data_size", bytes(8), data=[1, 2]),
    binary("a size that is text", "binary_data_size must be an integer number", bytes(8), "8"),
    binary("a size that is true", "binary_data_size must be an integer number", bytes(8), True),
    binary("a negative size", "binary_data_size must be an integer number", bytes(8), -8),
    binary("a size of 8.0", "binary_data_size must be an integer number", bytes(8), 8.0),
    binary("a size that is not the shape's", "[2] of FP32 takes 8 bytes, not 4", bytes(8), 4),
    binary("half the bytes of FP16", "FP16 takes 4 bytes, not 2", bytes(2), 2, datatype="FP16"),
    binary("too many bytes of BF16", "BF16 takes 4 bytes, not 8", bytes(8), datatype="BF16"),
    binary("a boolean of 2", "must be a byte of 0 or 1", b"\1\2", 2, datatype="BOOL"),
    binary("BYTES without lengths", "takes at least 8 bytes", b"ab", 2, datatype="BYTES"),
    binary(
        "BYTES that end within a length",
        "input 'x': the bytes end before the length of element 1",
        b"\2\0\0\0abcd",
        datatype="BYTES",
    ),
    binary(
        "BYTES with a length beyond the tensor",
        "input 'x': element 0 declares 4294967295 bytes, but 4 are left",
        b"\xff" * 8,
        datatype="BYTES",
    ),
    binary(
        "BYTES with something after them",
        "input 'x': 1 bytes follow the last of 1 elements",
        b"\3\0\0\0abcd",
        shape=[1],
        datatype="BYTES",
    ),
    binary(
        "BYTES of a shape beyond any memory",
        "[281474976710656] of BYTES takes at least",
        bytes(8),
        shape=[2**48],
        datatype="BYTES",
    ),
    binary("a size beyond the body", "is 8, but only 7 bytes of the body remain", bytes(7)),
    binary("bytes after the tensors", "1 extra bytes follow the tensors that the inputs", bytes(9)),
    binary("bytes nobody described", "8 extra bytes follow", bytes(8), data=[1, 2], parameters={}),
    binary("a huge binary tensor", "is too large", b"", 0, shape=[0, 2**62, 4]),
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

SHARED_MEMORY = "shared memory is not supported; send the tensor's bytes"

UNSUPPORTED = (
    request(
        "an output as classes",
        "the classification extension is not supported",
        outputs=[{"name": "y", "parameters": {"classification": 3}}],
    ),
    tensor(
        "an input in shared memory",
        SHARED_MEMORY,
        parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8},
    ),
    request(
        "an output in shared memory",
        SHARED_MEMORY,
        outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}],
    ),
)
"""Well-formed, and of an extension that is not here."""
