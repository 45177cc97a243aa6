from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from variants.analysis.search.goal import Goal, duration_s


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"max_drop": 0.005, "least": "bytes"}, "bytes"),
        ({"latency_s": 0.01}, "latency"),
        ({"latency_s": 0.01, "max_drop": 0.005}, "latency"),
        ({"latency_s": 0.01, "max_drop": 0.005, "least": "parameters"}, "parameters"),
    ],
)
def test_a_goal_determines_the_cost_that_candidates_are_compared_by(
    fields: dict[str, Any], cost: str
) -> None:
    assert Goal(**fields).cost == cost


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "set a largest drop"),
        ({"least": "bytes", "latency_s": 1}, "the least bytes needs a largest drop"),
        ({"max_drop": 0.005}, "set the cost to minimize"),
        ({"max_drop": 0.0, "least": "bytes"}, "greater than 0"),
        ({"max_drop": 0.1, "least": "bytes", "confidence": 1.0}, "less than 1"),
    ],
)
def test_an_incomplete_or_impossible_goal_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Goal(**fields)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("7", 7)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "10 min", "0s"])
def test_any_other_duration_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"90s, 10m or 1\.5h"):
        duration_s(text)
