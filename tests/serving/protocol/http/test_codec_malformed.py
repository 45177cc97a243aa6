from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from types import FrameType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest, ServingError, Unsupported
from serving.protocol.http.codec import parse_request
from tests.serving.builders import MODEL
from tests.serving.protocol.http.malformed import (
    INPUTS,
    MALFORMED,
    UNSUPPORTED,
    WELL_FORMED,
    Malformed,
)
from variants.catalog.datatype import NUMPY
from variants.catalog.raw import to_raw


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.rule)
def test_a_malformed_request_is_refused_with_what_is_wrong(case: Malformed) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request(case.body, case.json_length, INPUTS)
    message = str(refused.value)
    assert case.message in message
    assert len(message) < 500, "a message is short, whatever was sent"
    assert refused.value.request_id == case.id


@pytest.mark.parametrize("case", UNSUPPORTED, ids=lambda case: case.rule)
def test_an_extension_that_is_not_here_is_refused_by_its_name(case: Malformed) -> None:
    with pytest.raises(Unsupported) as refused:
        parse_request(case.body, case.json_length, INPUTS)
    assert str(refused.value) == case.message
    assert refused.value.request_id == case.id


def test_what_the_table_is_made_from_is_well_formed() -> None:
    assert parse_request(WELL_FORMED, None).inputs["x"].tolist() == [1, 2]


def test_the_table_is_about_the_model_that_tests_of_http_serve() -> None:
    assert MODEL.inputs == INPUTS


def test_no_rule_of_the_table_stands_there_twice() -> None:
    assert len({case.rule for case in (*MALFORMED, *UNSUPPORTED)}) == len(MALFORMED + UNSUPPORTED)


def test_a_long_text_costs_no_more_than_its_length() -> None:
    # numpy would give each of the 20,000 values the 40 kB of the longest: 800 MB
    data = ["x" * 10_000, *["a"] * 20_000]
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [20_001], "datatype": "FP32", "data": data}]}
    )
    start = time.process_time()
    with pytest.raises(InvalidRequest, match="null and strings are not allowed"):
        parse_request(body, None)
    assert time.process_time() - start < 0.5


DEEP = b'{"inputs":[{"name":"x","shape":[10000,1,1,1,1,1,1,%d],"datatype":"FP32","data":[%s]}]}'
ITEMS = b",".join([b"[[[[[[[1]]]]]]]"] * 10_000)
LARGE = {"that is taken": DEEP % (1, ITEMS), "that is refused": DEEP % (2, ITEMS)}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_the_garbage_collector_rests_while_a_large_body_is_read(body: bytes) -> None:
    # with 8 MiB of them it takes 2 s to look through the lists, and 0.2 s to read them
    collections = []

    def note(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        with contextlib.suppress(InvalidRequest):
            parse_request(body, None)
    finally:
        gc.callbacks.remove(note)
    assert not collections
    assert gc.isenabled()


def test_a_garbage_collector_that_rested_before_rests_after() -> None:
    gc.disable()
    try:
        parse_request(LARGE["that is taken"], None)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_a_large_body_held_is_gone_when_its_refusal_is_told() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request(LARGE["that is refused"], None)
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(refused.value.__traceback__)]
    assert frames[1:] == ["parse_request"]


def test_lists_within_lists_cost_no_call_each() -> None:
    calls = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        parse_request(LARGE["that is taken"], None)
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


def nearly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, sometimes anything."""
    return st.one_of(usual, usual, usual, json_values)


values = (
    st.integers(-3, 300) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
)
near_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": nearly(st.sampled_from(["x", "y"])),
        "shape": nearly(st.lists(st.integers(-1, 3) | st.integers(0, 2**64 - 1), max_size=4)),
        "datatype": nearly(st.sampled_from(sorted(NUMPY))),
        "data": nearly(st.lists(nearly(values | st.lists(values, max_size=3)), max_size=4)),
        "parameters": nearly(
            st.fixed_dictionaries({}, optional={"binary_data_size": nearly(st.integers(0, 16))})
        ),
    },
)
near_requests = st.fixed_dictionaries(
    {"inputs": nearly(st.lists(nearly(near_tensors), min_size=1, max_size=3))},
    optional={
        "id": nearly(st.text(max_size=5)),
        "parameters": nearly(
            st.fixed_dictionaries({}, optional={"binary_data_output": nearly(st.booleans())})
        ),
        "outputs": nearly(st.lists(nearly(near_tensors), max_size=3)),
    },
)


def parse_or_refuse(body: bytes, json_length: int | None) -> None:
    """Let through nothing but a request whose arrays can be worked with, or a refusal."""
    with contextlib.suppress(ServingError):
        request = parse_request(body, json_length, INPUTS)
        for array in request.inputs.values():
            assert array.dtype in NUMPY.values()
            to_raw(array)


@given(st.binary(), st.none() | st.integers(0, 20))
def test_any_bytes_are_a_request_or_refused(body: bytes, json_length: int | None) -> None:
    parse_or_refuse(body, json_length)


@given(json_values)
def test_any_document_is_a_request_or_refused(document: Any) -> None:
    parse_or_refuse(orjson.dumps(document), None)


@given(near_requests, st.binary(max_size=16))
def test_what_is_nearly_a_request_is_one_or_refused(document: Any, raw: bytes) -> None:
    head = orjson.dumps(document)
    parse_or_refuse(head + raw, len(head))


@given(st.data())
def test_a_request_with_some_bytes_changed_is_one_or_refused(data: st.DataObject) -> None:
    body = bytearray(WELL_FORMED)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    parse_or_refuse(bytes(body), None)
