"""Malformed tensors of HTTP requests: values in JSON, and binary values after the JSON part."""

from __future__ import annotations

import orjson

from tests.serving.protocol.malformed.case import http_binary, http_input, http_without
from tests.serving.protocol.malformed.http_only import nested

NOT_A_LIST = "input 'x': data must be a list of values"
NUMBERS = "input 'x': data must be numbers; null and strings are not allowed"
INTEGERS = "input 'x': data must be integers; null and strings are not allowed"
STRINGS = "input 'x': data must be strings; null and numbers are not allowed"
RANGE = "input 'x': data has a value outside the range of its datatype"
RAGGED = "input 'x': data must not be a ragged list"
TOO_DEEP = "data may be nested at most 8 deep"
BINARY_SIZE = "binary_data_size must be an integer number"

JSON_TENSORS = (
    http_without("no data", "input 'x': the values are missing; send them as data", "data"),
    http_input("data that is a number", NOT_A_LIST, data=1),
    http_input("data that is an object", NOT_A_LIST, data={"0": 1}),
    http_input("too few values", "input 'x': shape [2] holds 2 values, data has 1", data=[1]),
    http_input(
        "too many values", "input 'x': shape [2] holds 2 values, data has 3", data=[1, 2, 3]
    ),
    http_input("data for an empty shape", "shape [0] holds 0 values, data has 2", shape=[0]),
    http_input("no data for a scalar", "shape [] holds 1 values, data has 0", shape=[], data=[]),
    http_input("rows of unequal length", RAGGED, shape=[2, 2], data=[[1, 2], [3]]),
    http_input("a row of two among rows of one", RAGGED, shape=[2, 1], data=[[1], [2, 3]]),
    http_input("a row among numbers", RAGGED, shape=[2], data=[1, [2]]),
    http_input("a number among rows of one", RAGGED, shape=[2, 1], data=[[1], 2]),
    http_input("an object among rows", RAGGED, shape=[2, 2], data=[[1, 2], {"3": 4, "5": 6}]),
    http_input("a row among the numbers of a row", RAGGED, shape=[2, 2], data=[[1, 2], [3, [4]]]),
    http_input(
        "rows for a shape of one dimension",
        "input 'x': data is nested as [2, 1], shape is [2]",
        data=[[1], [2]],
    ),
    http_input(
        "one level of nesting too many",
        "input 'x': data is nested as [2, 1, 1], shape is [2, 1]",
        shape=[2, 1],
        data=[[[1]], [[2]]],
    ),
    http_input(
        "an empty row for a shape without rows",
        "input 'x': data is nested as [1, 0], shape is [0, 4]",
        shape=[0, 4],
        data=[[]],
    ),
    http_input(
        "nesting that is not the shape",
        "input 'x': data is nested as [3, 2], shape is [2, 3]",
        shape=[2, 3],
        data=[[1, 2], [3, 4], [5, 6]],
    ),
    http_input("numbers nested 50 deep", TOO_DEEP, shape=[1], data=orjson.loads(nested(50))),
    http_input("a string among numbers", NUMBERS, data=[1, "2"]),
    http_input("null among numbers", NUMBERS, data=[1, None]),
    http_input("an object among numbers", NUMBERS, data=[1, {}]),
    http_input("booleans for numbers", NUMBERS, data=[True, False]),
    http_input("a boolean among numbers", NUMBERS, data=[1, True]),
    http_input(
        "a long string in a long list",
        NUMBERS,
        shape=[10_001],
        data=["x" * 50_000] + ["a"] * 10_000,
    ),
    http_input("a fraction among integers", INTEGERS, datatype="INT32", data=[1, 2.5]),
    http_input("2.0 for an integer", INTEGERS, datatype="INT32", data=[1, 2.0]),
    http_input("booleans for integers", INTEGERS, datatype="UINT8", data=[True, False]),
    http_input("numbers for booleans", "data must be booleans", datatype="BOOL", data=[1, 0]),
    http_input("a value above INT8", RANGE, datatype="INT8", data=[1, 128]),
    http_input("a value below UINT8", RANGE, datatype="UINT8", data=[0, -1]),
    http_input("a value above INT64", RANGE, datatype="INT64", data=[1, 2**63]),
    http_input("a value above FP32", RANGE, data=[1, 1e39]),
    http_input("FP16 as JSON", "FP16 cannot be sent as JSON; send the tensor as", datatype="FP16"),
    http_input("BF16 as JSON", "BF16 cannot be sent as JSON; send the tensor as", datatype="BF16"),
    http_input("numbers for strings", STRINGS, datatype="BYTES", data=[1, 2]),
    http_input("a number among strings", STRINGS, datatype="BYTES", data=["a", 2]),
    http_input("null among strings", STRINGS, datatype="BYTES", data=["a", None]),
    http_input(
        "too many strings",
        "holds 2 values, data has 3",
        datatype="BYTES",
        data=["a", "b", "c"],
    ),
    http_input("a row among strings", RAGGED, datatype="BYTES", data=["a", ["b"]]),
    http_input("a string among rows", RAGGED, datatype="BYTES", shape=[2, 1], data=[["a"], "b"]),
    http_input(
        "rows of strings of unequal length",
        RAGGED,
        datatype="BYTES",
        shape=[2, 2],
        data=[["a", "b"], ["c"]],
    ),
    http_input(
        "nesting of strings that is not the shape",
        "input 'x': data is nested as [1, 2], shape is [2, 1]",
        datatype="BYTES",
        shape=[2, 1],
        data=[["a", "b"]],
    ),
    http_input(
        "strings nested 50 deep",
        TOO_DEEP,
        datatype="BYTES",
        shape=[1],
        data=orjson.loads(nested(50)),
    ),
)

BINARY_TENSORS = (
    http_binary(
        "both data and binary values",
        "send either data or binary_data_size",
        bytes(8),
        data=[1, 2],
    ),
    http_binary("a binary size that is a string", BINARY_SIZE, bytes(8), "8"),
    http_binary("a binary size that is a boolean", BINARY_SIZE, bytes(8), True),
    http_binary("a negative binary size", BINARY_SIZE, bytes(8), -8),
    http_binary("a binary size that is a float", BINARY_SIZE, bytes(8), 8.0),
    http_binary(
        "a binary size that does not fit the shape", "[2] of FP32 takes 8 bytes, not 4", bytes(8), 4
    ),
    http_binary("too few bytes of FP16", "FP16 takes 4 bytes, not 2", bytes(2), 2, datatype="FP16"),
    http_binary("too many bytes of BF16", "BF16 takes 4 bytes, not 8", bytes(8), datatype="BF16"),
    http_binary("a BOOL of 2", "must be a byte of 0 or 1", b"\1\2", 2, datatype="BOOL"),
    http_binary("BYTES without lengths", "takes at least 8 bytes", b"ab", 2, datatype="BYTES"),
    http_binary(
        "BYTES truncated within a length",
        "input 'x': the bytes end before the length of element 1",
        b"\2\0\0\0abcd",
        datatype="BYTES",
    ),
    http_binary(
        "BYTES with a length beyond the tensor",
        "input 'x': element 0 declares 4294967295 bytes, but 4 are left",
        b"\xff" * 8,
        datatype="BYTES",
    ),
    http_binary(
        "extra bytes after the last element of BYTES",
        "input 'x': 1 bytes follow the last of 1 elements",
        b"\3\0\0\0abcd",
        shape=[1],
        datatype="BYTES",
    ),
    http_binary(
        "BYTES of a shape beyond the memory",
        "[281474976710656] of BYTES takes at least",
        bytes(8),
        shape=[2**48],
        datatype="BYTES",
    ),
    http_binary(
        "a binary size beyond the body", "is 8, but only 7 bytes of the body remain", bytes(7)
    ),
    http_binary(
        "extra bytes after the tensors",
        "1 extra bytes follow the tensors that the inputs",
        bytes(9),
    ),
    http_binary(
        "binary values without a binary size",
        "8 extra bytes follow",
        bytes(8),
        data=[1, 2],
        parameters={},
    ),
    http_binary(
        "an empty binary tensor beyond the address range",
        "is too large",
        b"",
        0,
        shape=[0, 2**62, 4],
    ),
)
