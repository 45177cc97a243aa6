from __future__ import annotations

import contextlib
import gc
import sys
import traceback
import tracemalloc
from types import FrameType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest, ServingError, Unsupported
from serving.protocol.http.codec import parse_request
from tests.serving.builders import MODEL
from tests.serving.protocol.malformed.case import WELL_FORMED, Malformed
from tests.serving.protocol.malformed.table import HTTP_BODIES, MALFORMED, each
from variants.catalog.datatype import NUMPY
from variants.catalog.raw import to_raw


@each(HTTP_BODIES)
def test_a_malformed_request_raises_the_error_of_its_rule(case: Malformed) -> None:
    assert case.http is not None
    with pytest.raises(case.error) as caught:
        parse_request(case.http.body, case.http.json_length, MODEL.inputs)
    message = str(caught.value)
    assert case.message in message
    if case.error is Unsupported:
        assert case.message == message
    assert len(message) < 500, "messages stay short for any request"
    assert caught.value.request_id == case.id


def test_the_request_that_the_cases_change_is_well_formed() -> None:
    assert parse_request(WELL_FORMED, None).inputs["x"].tolist() == [1, 2]


def test_the_rules_of_the_table_are_unique() -> None:
    assert len({case.rule for case in MALFORMED}) == len(MALFORMED)


def test_the_cost_of_a_long_string_is_linear_in_its_length() -> None:
    # A numpy array of strings would give each of 20,000 values the 40 kB of the longest: 800 MB.
    data = ["x" * 10_000, *["a"] * 20_000]
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [20_001], "datatype": "FP32", "data": data}]}
    )
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="null and strings are not allowed"):
            parse_request(body, None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 50_000_000


DEEP = b'{"inputs":[{"name":"x","shape":[10000,1,1,1,1,1,1,%d],"datatype":"FP32","data":[%s]}]}'
ITEMS = b",".join([b"[[[[[[[1]]]]]]]"] * 10_000)
LARGE = {"valid": DEEP % (1, ITEMS), "invalid": DEEP % (2, ITEMS)}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_garbage_collection_is_disabled_while_a_large_body_is_parsed(body: bytes) -> None:
    # For a body of 8 MiB, scanning the lists takes 2 s, and parsing them 0.2 s.
    collections = []

    def record(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(record)
    try:
        with contextlib.suppress(InvalidRequest):
            parse_request(body, None)
    finally:
        gc.callbacks.remove(record)
    assert not collections
    assert gc.isenabled()


def test_garbage_collection_that_was_disabled_before_stays_disabled() -> None:
    gc.disable()
    try:
        parse_request(LARGE["valid"], None)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_error_of_a_large_body_keeps_no_frame_that_holds_its_values() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(LARGE["invalid"], None)
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frames[1:] == ["parse_request"]


def test_nested_lists_take_no_function_call_each() -> None:
    calls = []

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(record)
    try:
        parse_request(LARGE["valid"], None)
    finally:
        sys.setprofile(None)
    assert 0 < len(calls) < 100


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=3)
    ),
    max_leaves=8,
)


def mostly(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for valid values, and sometimes for any JSON value."""
    return st.one_of(valid, valid, valid, json_values)


values = (
    st.integers(-3, 300) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
)
almost_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": mostly(st.sampled_from(["x", "y"])),
        "shape": mostly(st.lists(st.integers(-1, 3) | st.integers(0, 2**64 - 1), max_size=4)),
        "datatype": mostly(st.sampled_from(sorted(NUMPY))),
        "data": mostly(st.lists(mostly(values | st.lists(values, max_size=3)), max_size=4)),
        "parameters": mostly(
            st.fixed_dictionaries({}, optional={"binary_data_size": mostly(st.integers(0, 16))})
        ),
    },
)
almost_requests = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(mostly(almost_tensors), min_size=1, max_size=3))},
    optional={
        "id": mostly(st.text(max_size=5)),
        "parameters": mostly(
            st.fixed_dictionaries({}, optional={"binary_data_output": mostly(st.booleans())})
        ),
        "outputs": mostly(st.lists(mostly(almost_tensors), max_size=3)),
    },
)


def check_parsing(body: bytes, json_length: int | None) -> None:
    """Fail unless parsing returns usable arrays or raises a `ServingError`."""
    with contextlib.suppress(ServingError):
        request = parse_request(body, json_length, MODEL.inputs)
        for array in request.inputs.values():
            assert array.dtype in NUMPY.values()
            to_raw(array)


@given(st.binary(), st.none() | st.integers(0, 20))
def test_any_bytes_are_parsed_or_rejected(body: bytes, json_length: int | None) -> None:
    check_parsing(body, json_length)


@given(json_values)
def test_any_document_is_parsed_or_rejected(document: Any) -> None:
    check_parsing(orjson.dumps(document), None)


@given(almost_requests, st.binary(max_size=16))
def test_an_almost_valid_request_is_parsed_or_rejected(document: Any, raw: bytes) -> None:
    head = orjson.dumps(document)
    check_parsing(head + raw, len(head))


@given(st.data())
def test_a_request_with_changed_bytes_is_parsed_or_rejected(data: st.DataObject) -> None:
    body = bytearray(WELL_FORMED)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check_parsing(bytes(body), None)
