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
    chooser,
    lane,
    router_state,
    variant_state,
)

choose = chooser(fixed)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([math.inf], [DENSE, INT8], ("dense", 1), id="no deadline"),
        pytest.param([1.0] * 100, [DENSE, INT8], ("dense", 64), id="as large as possible"),
        pytest.param(
            [0.020] * 40, [DENSE, INT8], ("dense", 8), id="no larger than the slack allows"
        ),
        pytest.param([0.006], [DENSE, INT8], ("dense", 1), id="possibly in time: tried"),
        pytest.param(
            [0.004], [DENSE, INT8], "drop", id="too late for this variant, not for another"
        ),
        pytest.param([0.1], [BUSY_DENSE, INT8], ("wait", 0.005), id="busy: wait"),
        pytest.param([0.1], [INT8], ("int8", 1), id="no live replica: the next variant"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_the_objective_latency_gets_the_fastest_variant_that_may_be_in_time() -> None:
    steady, lucky = (
        variant_state("dense", 0.005, best_case=1),
        variant_state("int8", 0.006, best_case=0.5),
    )
    assert choose([lane(0.004, fastest_first=True)], steady, lucky) == ("int8", 1)


@pytest.mark.parametrize(
    ("dues", "skip", "size"),
    [
        pytest.param(
            [0.0131] * 4 + [0.1] * 16, 4, 16, id="307/s, or 640/s from the fifth request on"
        ),
        pytest.param([0.0131] * 4 + [0.1] * 5, 4, 5, id="307/s, or 357/s"),
        pytest.param([0.0131] * 4 + [0.1] * 3, 0, 4, id="307/s, or 250/s"),
        pytest.param([0.0131] * 4 + [0.026] * 16 + [0.1] * 6, 4, 16, id="or 640/s, or 400/s"),
    ],
)
def test_a_few_urgent_requests_do_not_delay_many_others(
    dues: Sequence[float], skip: int, size: int
) -> None:
    now = 100.0
    behind = lane(*(now + due for due in dues))
    decision = fixed(replace(router_state([behind], DENSE), now=now))
    took_s = DENSE.times.within_s(size)
    assert decision == Dispatch("dense", ((behind, size),), size, took_s, "fixed", skip)


def test_urgent_requests_are_served_if_larger_batches_are_no_faster() -> None:
    behind = lane(*[0.041] * 4, *[0.9] * 16)
    assert fixed(router_state([behind], variant_state("dense", 0.010, 0.010))) == Dispatch(
        "dense", ((behind, 4),), 4, 0.040, "fixed"
    )


def test_a_dispatch_predicts_its_time() -> None:
    only = lane(0.1, 0.1)
    decision = fixed(router_state([only], DENSE))
    assert decision == Dispatch("dense", ((only, 2),), 2, 0.011, "fixed")
