from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.routing.policy.baselines.fixed import fixed
from serving.routing.policy.state import Dispatch, VariantState
from tests.serving.routing.policy.states import (
    BUSY_DENSE,
    DENSE,
    INT8,
    chooses,
    lane,
    state,
    variant_state,
)

choose = chooses(fixed)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([math.inf], [DENSE, INT8], ("dense", 1), id="no deadline"),
        pytest.param([1.0] * 100, [DENSE, INT8], ("dense", 64), id="as large as it can be"),
        pytest.param([0.020] * 40, [DENSE, INT8], ("dense", 8), id="no larger than slack allows"),
        pytest.param([0.006], [DENSE, INT8], ("dense", 1), id="perhaps in time: tried"),
        pytest.param([0.004], [DENSE, INT8], "drop", id="too late for it, if not for another"),
        pytest.param([0.1], [BUSY_DENSE, INT8], ("wait", 0.005), id="busy: it waits"),
        pytest.param([0.1], [INT8], ("int8", 1), id="dead: the next"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_an_objective_of_latency_gets_the_quickest_that_may_be_in_time() -> None:
    steady, lucky = (
        variant_state("dense", 0.005, best_case=1),
        variant_state("int8", 0.006, best_case=0.5),
    )
    assert choose([lane(0.004, fastest_first=True)], steady, lucky) == ("int8", 1)


@pytest.mark.parametrize(
    ("dues", "skip", "size"),
    [
        pytest.param([0.0131] * 4 + [0.1] * 16, 4, 16, id="307/s, or 640/s from the fifth on"),
        pytest.param([0.0131] * 4 + [0.1] * 5, 4, 5, id="307/s, or 357/s"),
        pytest.param([0.0131] * 4 + [0.1] * 3, 0, 4, id="307/s, or 250/s"),
        pytest.param([0.0131] * 4 + [0.026] * 16 + [0.1] * 6, 4, 16, id="or 640/s, or 400/s"),
    ],
)
def test_a_few_that_are_due_first_do_not_hold_up_the_many(
    dues: Sequence[float], skip: int, size: int
) -> None:
    now = 100.0
    behind = lane(*(now + due for due in dues))
    decision = fixed(replace(state([behind], DENSE), now=now))
    took_s = DENSE.times.within_s(size)
    assert decision == Dispatch("dense", ((behind, size),), size, took_s, "fixed", skip)


def test_they_are_served_where_larger_batches_are_no_faster() -> None:
    behind = lane(*[0.041] * 4, *[0.9] * 16)
    assert fixed(state([behind], variant_state("dense", 0.010, 0.010))) == Dispatch(
        "dense", ((behind, 4),), 4, 0.040, "fixed"
    )


def test_says_what_it_expects() -> None:
    only = lane(0.1, 0.1)
    decision = fixed(state([only], DENSE))
    assert decision == Dispatch("dense", ((only, 2),), 2, 0.011, "fixed")
