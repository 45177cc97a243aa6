from __future__ import annotations

import io
import logging

import orjson
import pytest

from serving.telemetry.line_budget import (
    COUNTED,
    LINES,
    MAX_KINDS,
    NOTICE,
    PERIOD_S,
    BudgetFilter,
    LineBudget,
)
from serving.telemetry.logs import JsonFormatter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_of_each_kind_a_few_lines_are_written_in_a_period_and_the_others_counted() -> None:
    clock = Clock()
    budget = LineBudget(clock)
    written = [budget.take("refused") for _ in range(1_000)]
    assert written[: LINES - 1] == [{COUNTED: True}] * (LINES - 1)
    assert written[LINES - 1] == {COUNTED: True, "notice": NOTICE}
    assert written[LINES:] == [None] * (1_000 - LINES)
    assert budget.take("another kind") == {COUNTED: True}
    clock.now = PERIOD_S
    assert budget.take("refused") == {COUNTED: True, "not_logged": 1_000 - LINES}
    assert budget.take("refused") == {COUNTED: True}


def test_the_number_of_kinds_is_bounded() -> None:
    budget = LineBudget(Clock())
    assert all(budget.take(number) for number in range(MAX_KINDS))
    assert sum(budget.take(-1 - number) is not None for number in range(1_000)) == LINES


@pytest.mark.parametrize(("level", "expected"), [(logging.ERROR, LINES), (logging.INFO, 50)])
def test_warnings_and_errors_of_one_place_that_repeat_themselves_are_bounded(
    level: int, expected: int
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(BudgetFilter())
    logger = logging.Logger("serving.link.host")
    logger.addHandler(handler)
    for number in range(50):
        logger.log(level, "batch %d failed", number)
    logger.error("something else")
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == expected + 1
    assert lines[-1]["message"] == "something else"
    assert COUNTED not in lines[0]
    assert (lines[LINES - 1].get("notice") == NOTICE) == (level == logging.ERROR)


def test_a_line_of_another_variant_is_of_another_kind() -> None:
    budget = BudgetFilter()

    def is_written(variant: str) -> bool:
        fields = {"levelno": logging.ERROR, "variant": variant}  # all of one place
        return budget.filter(logging.makeLogRecord(fields))

    assert [is_written("dense@1") for _ in range(LINES + 1)] == [True] * LINES + [False]
    assert is_written("int8@1")


def test_a_line_that_was_counted_by_its_own_budget_is_not_counted_again() -> None:
    budget, own = BudgetFilter(), LineBudget()
    for kind in range(5):
        for _ in range(LINES):
            record = logging.makeLogRecord(
                {"levelno": logging.ERROR, **(own.take(kind) or {})}  # all of one place
            )
            assert budget.filter(record)
