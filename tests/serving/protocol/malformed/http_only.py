"""Malformed requests that only HTTP can express: headers, JSON documents and their fields."""

from __future__ import annotations

import orjson

from tests.serving.protocol.malformed.both_transports import DATATYPES, NO_DATATYPE
from tests.serving.protocol.malformed.case import (
    JSON_X,
    WELL_FORMED,
    http,
    http_body,
    http_header,
    http_input,
    http_without,
)


def nested(depth: int) -> bytes:
    """Return an empty list within lists."""
    return b"[" * depth + b"]" * depth


NOT_JSON = "the body is not valid JSON: "
LENGTH = "inference-header-content-length"
JSON_LENGTH = "the header Inference-Header-Content-Length is"
NOT_A_LENGTH = "Inference-Header-Content-Length must be the length of the JSON part in bytes, got"
NOT_DECODED = "the body does not match its Content-Encoding"
NOT_A_LATENCY = "header x-slo-latency-ms must be a number of milliseconds above 0, got"
DIMENSION = "input 'x': shape must hold integers of at least 0, got"

HEADERS = (
    *(
        http_header(f"a latency of {value}", f"{NOT_A_LATENCY} {repr_}", "x-slo-latency-ms", value)
        for value, repr_ in (
            ("nan", "'nan'"),
            ("1e400", "'1e400'"),
            ("-inf", "'-inf'"),
            ("soon", "'soon'"),
        )
    ),
    http_header(
        "an unknown content coding",
        "Content-Encoding must be gzip, deflate or identity, got",
        "content-encoding",
        "br",
    ),
    http_header("a body that is not gzip", NOT_DECODED, "content-encoding", "gzip"),
    http_header("a body that is not deflate", NOT_DECODED, "content-encoding", "deflate"),
    http_header(
        "corrupt deflate", NOT_DECODED, "content-encoding", "deflate", b"\x78\x9c" + bytes(100)
    ),
    http_header(
        "a priority that is an integer of 20 digits",
        "got 18446744073709551617",
        "x-tag",
        "1",
        WELL_FORMED.replace(
            b'{"inputs"', b'{"parameters":{"priority":18446744073709551617},"inputs"'
        ),
    ),
    http_header("a JSON length that is a word", NOT_A_LENGTH, LENGTH, "ten"),
    http_header("a negative JSON length", NOT_A_LENGTH, LENGTH, "-1"),
    http_header("an empty JSON length", NOT_A_LENGTH, LENGTH, ""),
    http_header("a JSON length of 30 digits", NOT_A_LENGTH, LENGTH, "9" * 30),
    http_header("a JSON length of 2**64", NOT_A_LENGTH, LENGTH, str(2**64)),
    http_header("a JSON length of 18 digits", "but the body has", LENGTH, "9" * 18),
)

BODIES = (
    http_body("an empty body", NOT_JSON, b""),
    http_body("plain text", NOT_JSON, b"pixels"),
    http_body("truncated JSON", NOT_JSON, WELL_FORMED[:-1]),
    http_body("two JSON documents", NOT_JSON, WELL_FORMED * 2),
    http_body(
        "bytes that are not UTF-8", NOT_JSON + "byte 12 is not UTF-8", b'{"inputs": "\xff\xfe"}'
    ),
    http_body("a lone surrogate", NOT_JSON, rb'{"id": "\ud800"}'),
    http_body("NaN, which Python writes", NOT_JSON, WELL_FORMED.replace(b"[1,", b"[NaN,")),
    http_body("-Infinity", NOT_JSON, WELL_FORMED.replace(b"[1,", b"[-Infinity,")),
    http_body("a number of 1e999", NOT_JSON, WELL_FORMED.replace(b"[1,", b"[1e999,")),
    http_body("JSON nested 100,000 deep", NOT_JSON, nested(100_000)),
    http_body("a list", "the body must be a JSON object", b"[]"),
    http_body(
        "a list with an integer of 19 digits",
        "the body must be a JSON object",
        b"[9999999999999999999]",
    ),
    http_body("an integer of 19 digits", "the body must be a JSON object", b"9999999999999999999"),
    http_body(
        "NaN beside an integer of 19 digits", NOT_JSON, b'{"id": NaN, "x": 9999999999999999999}'
    ),
    http_body("null", "the body must be a JSON object", b"null"),
    http_body("no inputs field", "inputs is missing; it must be a list", b"{}"),
    http_body(
        "a JSON length of 0 with an empty body", f"{JSON_LENGTH} 0, but the body has 0", b"", 0
    ),
    http_body(
        "a raw request of the wrong length",
        "the raw request for input 'pixels': shape [1, 4] of FP32 takes 16 bytes, not 15",
        bytes(15),
        0,
    ),
    http_body("a JSON length beyond the body", f"{JSON_LENGTH} 3, but the body has 2", b"{}", 3),
    http_body("a JSON length within the JSON part", NOT_JSON, WELL_FORMED, len(WELL_FORMED) - 1),
    http_body(
        "an id nested beyond the recursion limit",
        "id must be a string, got [",
        b'{"inputs":[' + orjson.dumps(JSON_X) + b'],"id":' + nested(1000) + b"}",
    ),
    http_body(
        "a dimension nested beyond the recursion limit",
        DIMENSION,
        WELL_FORMED.replace(b'"shape":[2]', b'"shape":[' + nested(1000) + b"]"),
    ),
)

FIELDS = (
    http("inputs as an object", "inputs must be a list", inputs={"x": JSON_X}),
    http("an input that is a number", "inputs[1] must be a JSON object", inputs=[JSON_X, 5]),
    http("an id that is a number", "id must be a string, got 7", id=7),
    http_body(
        "an id that is an integer of 20 digits",
        "id must be a string, got 18446744073709551617",
        WELL_FORMED.replace(b'{"inputs"', b'{"id":18446744073709551617,"inputs"'),
    ),
    http("parameters as a list", "parameters must be a JSON object", parameters=[]),
    http(
        "binary_data_output as a string",
        "parameters: binary_data_output must be true or false, got 'yes'",
        parameters={"binary_data_output": "yes"},
    ),
    http(
        "a parameter that is a list",
        "parameters: 'variant' must be a string, a number or a boolean",
        parameters={"variant": ["int8"]},
    ),
    http(
        "a parameter that is null",
        "parameters: 'priority' must be a string, a number or a boolean",
        parameters={"priority": None},
    ),
    http(
        "a parameter of an output that is an object",
        "outputs[0].parameters: 'tag' must be a string, a number or a boolean",
        outputs=[{"name": "y", "parameters": {"tag": {}}}],
    ),
    http("outputs as a string", "outputs must be a list", outputs="y"),
    http("an output that is a string", "outputs[0] must be a JSON object", outputs=["y"]),
    http(
        "binary_data as a number",
        "outputs[0].parameters: binary_data must be true or false, got 1",
        outputs=[{"name": "y", "parameters": {"binary_data": 1}}],
    ),
    http_input("an empty name", "inputs[0] must have a name", name=""),
    http_input("a name that is a number", "inputs[0] must have a name", name=1),
    http_without("no shape", "input 'x': shape is missing; it must be a list", "shape"),
    http_input("a shape that is a number", "input 'x': shape must be a list", shape=2),
    http_input("a dimension that is a string", f"{DIMENSION} '2'", shape=["2"]),
    http_input("a dimension that is a float", f"{DIMENSION} 2.0", shape=[2.0]),
    http_input("a dimension that is a boolean", f"{DIMENSION} true", shape=[True, 2]),
    http_input(
        "too many dimensions, all strings", "shape may have at most 8 dimensions", shape=["2"] * 9
    ),
    http_input("a dimension of 2**63", "is too large", shape=[0, 2**63]),
    http_input("a product of dimensions of 2**80", "is too large", shape=[2**40, 2**40, 0]),
    http_input("a datatype that is a list", DATATYPES, datatype=["FP32"]),
    http_input("a datatype that is null", NO_DATATYPE, datatype=None),
    http_input(
        "a parameter of an input that is a list",
        "input 'x': parameters: 'tag' must be a string, a number or a boolean",
        parameters={"tag": []},
    ),
    http_input(
        "parameters of an input as a list",
        "input 'x': parameters must be a JSON object",
        parameters=[],
    ),
)
