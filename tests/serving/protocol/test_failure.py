"""Which failures share a budget of log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from serving.errors import InvalidRequest, Unauthorized
from serving.protocol import failure
from serving.protocol.failure import log_failure
from serving.telemetry.line_budget import LINES


def count(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """Return how many lines of the log have this message."""
    return [record.message for record in caplog.records].count(text)


def raised(error: Callable[[], None]) -> Exception:
    try:
        error()
    except Exception as caught:
        return caught
    raise AssertionError


def one_bug() -> None:
    raise KeyError("one")


def another_bug() -> None:
    raise KeyError("another")


def test_unexpected_errors_of_one_place_hide_none_of_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(LINES + 1):
        log_failure(raised(one_bug), "/")
    log_failure(raised(another_bug), "/")
    log_failure(KeyError("never raised"), "/")
    assert count(caplog, "'one'") == LINES
    assert count(caplog, "'another'") == 1
    assert count(caplog, "'never raised'") == 1


def test_requests_without_a_token_hide_none_of_another_route(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, failure.__name__):
        for number in range(LINES + 1):
            log_failure(Unauthorized("to infer"), f"/v2/models/{number}/infer", route="infer")
        log_failure(Unauthorized("to change"), "/v2/admin/variants", route="/v2/admin")
    assert count(caplog, "to infer") == LINES
    assert count(caplog, "to change") == 1


def test_other_errors_share_a_budget_by_class(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, failure.__name__):
        for number in range(LINES + 1):
            log_failure(InvalidRequest("wrong"), f"/{number}", route=str(number))
    assert count(caplog, "wrong") == LINES
