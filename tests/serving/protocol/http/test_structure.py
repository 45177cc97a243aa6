"""Large JSON is examined before it is parsed."""

from __future__ import annotations

import gzip
import math

import numpy as np
import orjson
import pytest

from serving.errors import InvalidRequest
from serving.protocol.http import description
from serving.protocol.http.codec import parse_request
from serving.protocol.http.structure import MAX_OBJECTS, check_structure
from serving.protocol.tensor import MAX_EXTRA_VALUES
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER, assert_error
from variants.catalog.catalog import TensorSpec

MANY = MAX_EXTRA_VALUES + 100
MAX_VALUES = 4


def listed(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


TOO_MUCH = {
    "objects": listed(b"{}", MAX_OBJECTS + 1),
    "values": listed(b"0", MANY),
    "lists": listed(b"[]", MANY),
    "nested lists": b"[" * MANY + b"]" * MANY,
    "objects after a string with escapes": rb'["\"{\\",' + listed(b"{}", MAX_OBJECTS + 1) + b"]",
    "objects after long strings": b'["'
    + b"a" * 2**16
    + b'",'
    + listed(b"{}", MAX_OBJECTS + 1)
    + b"]",
    "objects after escapes at the end of a block": b'["'
    + b"a" * (2**16 - 3)
    + rb'\"",'
    + listed(b"{}", MAX_OBJECTS + 1)
    + b"]",
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_json_that_no_valid_request_is_as_large_as_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(body: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(description, "parse_json", fail)
    json = TOO_MUCH[kind].ljust(2**17)
    with pytest.raises(InvalidRequest, match="more values, lists or objects than a request"):
        parse_request(json, None, (), MAX_VALUES)
    with pytest.raises(InvalidRequest, match="at most 4002 objects and 4 values"):
        parse_request(json + b"raw", len(json), (), MAX_VALUES)


@pytest.mark.parametrize(
    "json",
    [
        pytest.param(listed(b"{}", MAX_OBJECTS - 1), id="as many objects as there may be"),
        pytest.param(listed(b"0", MAX_EXTRA_VALUES), id="as many values as there may be"),
        pytest.param(b'["' + b'{[,\\"' * MANY + b'"]', id="a string with many marks"),
        pytest.param(b'["' + b"\\\\" * 5 + b'","' + b"{" * MANY + b'"]', id="escaped backslashes"),
        pytest.param(listed(b'"{,["', 30_000), id="many strings with marks"),
    ],
)
def test_other_json_is_parsed(json: bytes) -> None:
    check_structure(json, len(json), MAX_VALUES)
    check_structure(json + TOO_MUCH["lists"], len(json), MAX_VALUES)


def test_nested_data_may_have_a_list_for_each_dimension_of_each_value() -> None:
    shape = (MAX_EXTRA_VALUES, 1, 1, 1)
    data = np.zeros(shape, np.int64).tolist()
    tensor = {"name": "x", "datatype": "INT64", "shape": shape, "data": data}
    spec = TensorSpec(name="x", datatype="INT64", shape=(-1, 1, 1, 1))
    request = parse_request(orjson.dumps({"inputs": [tensor]}), None, [spec], MAX_EXTRA_VALUES)
    assert request.inputs["x"].shape == shape


def test_the_number_of_values_is_not_limited_if_a_dimension_of_the_model_is_variable() -> None:
    check_structure(TOO_MUCH["values"], len(TOO_MUCH["values"]), math.inf)
    with pytest.raises(InvalidRequest, match="at most 4002 objects"):
        check_structure(TOO_MUCH["objects"], len(TOO_MUCH["objects"]), math.inf)


async def test_a_compressed_body_of_empty_objects_is_rejected() -> None:
    content = gzip.compress(listed(b"{}", 300_000))
    async with in_process().client() as client:
        headers = {"content-encoding": "gzip"}
        response = await client.post(INFER, content=content, headers=headers)
    assert_error(response, 400, "more values, lists or objects")
