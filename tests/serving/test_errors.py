from __future__ import annotations

import logging
import pickle

import grpc
import pytest

from serving.errors import (
    STATUS,
    DeadlineExceeded,
    InferenceFailed,
    Overloaded,
    ServingError,
    shorten,
    status_of,
)


def leaves(cls: type[ServingError]) -> set[type[ServingError]]:
    children = cls.__subclasses__()
    return {cls} if not children else set().union(*(leaves(child) for child in children))


def test_the_table_has_every_error_and_nothing_else() -> None:
    assert set(STATUS) == leaves(ServingError)


def test_no_two_errors_share_an_http_status() -> None:
    assert len({status.http for status in STATUS.values()}) == len(STATUS)


def test_every_http_status_is_that_of_an_error() -> None:
    assert [status for status in STATUS.values() if status.http < 400] == []


def test_every_grpc_status_exists_and_is_not_unknown() -> None:
    names = {code.name for code in grpc.StatusCode} - {"OK", "UNKNOWN"}
    assert {status.grpc for status in STATUS.values()} <= names


def test_every_error_has_an_outcome_of_the_metrics() -> None:
    outcomes = {"rejected", "refused", "shed", "not_ready", "expired", "failed"}
    assert {status.outcome for status in STATUS.values()} == outcomes


def test_only_internal_errors_are_logged_as_errors_and_those_of_load_only_for_debugging() -> None:
    levels = {cls: status.log_level for cls, status in STATUS.items()}
    assert {cls for cls, level in levels.items() if level == logging.ERROR} == {InferenceFailed}
    assert {cls for cls, level in levels.items() if level == logging.DEBUG} == {
        Overloaded,
        DeadlineExceeded,
    }
    assert set(levels.values()) == {logging.ERROR, logging.INFO, logging.DEBUG}


def test_an_exception_of_another_kind_is_an_internal_error() -> None:
    assert status_of(KeyError("oops")) == STATUS[InferenceFailed]
    assert status_of(Overloaded("busy")) == STATUS[Overloaded]


@pytest.mark.parametrize("cls", STATUS, ids=lambda cls: cls.__name__)
def test_errors_survive_a_process_boundary(cls: type[ServingError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("what went wrong")))
    assert type(copy) is cls
    assert str(copy) == "what went wrong"


def test_retry_after_survives_a_process_boundary() -> None:
    assert pickle.loads(pickle.dumps(Overloaded("busy", 3.0))).retry_after_s == 3.0


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * 10_000, id="long text"),
        pytest.param(list(range(10_000)), id="a long list"),
        pytest.param({str(i): i for i in range(10_000)}, id="a large object"),
        pytest.param(nested(5_000), id="deeper than the recursion limit"),
        pytest.param(["x" * 10_000] * 100, id="long texts in a list"),
    ],
)
def test_a_value_of_any_length_and_depth_is_shortened(value: object) -> None:
    assert len(shorten(value)) < 1_000


def test_a_short_value_is_not_changed() -> None:
    assert shorten("a name of about fifty characters, as a variant has") == (
        "'a name of about fifty characters, as a variant has'"
    )
    assert (shorten(-1), shorten(None), shorten(True), shorten(0.25)) == (
        "-1",
        "null",
        "true",
        "0.25",
    )
