"""The policy `pareto` with variants that count as equally accurate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Dispatch, VariantState, Wait
from tests.serving.routing.policy.states import lane, router_state, variant_state

CHEAP = replace(variant_state("cheap", 0.008, 0.0001), accuracy=0.9)
"""The quicker one of a large batch."""
QUICK = replace(variant_state("quick", 0.002, 0.0010), accuracy=0.9)
"""The quicker one of a small batch."""
WORSE = replace(variant_state("worse", 0.001, 0.0001), accuracy=0.8)
ALL = ("cheap", "quick", "worse")


def busy(variant: VariantState, left_s: float, overdue_s: float = 0.0) -> VariantState:
    return replace(variant, free_slots=0, free_in_s=left_s, overdue_s=overdue_s)


def choose(
    deadlines: list[float],
    *variants: VariantState,
    last: str | None = None,
    arrivals_per_s: float = 0.0,
) -> object:
    """Return the variant and the reason, or None if the decision is to wait."""
    state = router_state([lane(*deadlines, variants=ALL)], *variants, arrivals_per_s=arrivals_per_s)
    decision = pareto(replace(state, last_variant=last, free_cores=2, recent_accuracy=0.9))
    if isinstance(decision, Wait):
        return None
    assert isinstance(decision, Dispatch)
    return decision.variant, decision.reason


@pytest.mark.parametrize("allowed_s", [0.1, 1.0, math.inf], ids=["tight", "ample", "none"])
@pytest.mark.parametrize(("queued", "expected"), [(1, "quick"), (40, "cheap")])
@pytest.mark.parametrize("last", [None, "cheap", "quick"])
def test_of_equally_accurate_variants_the_quicker_one_for_the_batch_is_used(
    allowed_s: float, queued: int, expected: str, last: str | None
) -> None:
    chosen = choose([allowed_s] * queued, CHEAP, QUICK, WORSE, last=last)
    assert chosen == (expected, "preferred")


@pytest.mark.parametrize("allowed_s", [0.1, 1.0, math.inf], ids=["tight", "ample", "none"])
def test_a_request_does_not_wait_for_a_busy_variant_if_an_equal_one_answers_first(
    allowed_s: float,
) -> None:
    assert choose([allowed_s], CHEAP, busy(QUICK, 0.007), WORSE) == ("cheap", "preferred")


@pytest.mark.parametrize("allowed_s", [0.1, 1.0, math.inf], ids=["tight", "ample", "none"])
def test_a_request_waits_for_a_variant_that_answers_before_an_equal_one(allowed_s: float) -> None:
    assert choose([allowed_s], CHEAP, busy(QUICK, 0.001), WORSE) is None


@pytest.mark.parametrize("allowed_s", [0.1, 1.0, math.inf], ids=["tight", "ample", "none"])
def test_a_request_does_not_wait_for_a_host_that_hangs(allowed_s: float) -> None:
    hanging = busy(QUICK, 0.001, overdue_s=0.02)
    assert choose([allowed_s], CHEAP, hanging, WORSE) == ("cheap", "preferred")


def test_an_equal_variant_that_is_in_time_is_used_before_a_worse_one() -> None:
    assert choose([0.005], CHEAP, QUICK, WORSE) == ("quick", "preferred")
    assert choose([0.0015], CHEAP, QUICK, WORSE) == ("worse", "in time")


def test_the_policy_stays_in_the_tier_of_the_last_batch_if_values_are_about_equal() -> None:
    better = replace(variant_state("better", 0.009), accuracy=0.901)
    state = router_state(
        [lane(0.1, variants=("better", *ALL))], better, busy(CHEAP, 0.2), QUICK, WORSE
    )
    chosen = {}
    for last in ("better", "cheap"):
        decision = pareto(replace(state, last_variant=last, free_cores=2, recent_accuracy=0.9))
        assert isinstance(decision, Dispatch)
        chosen[last] = decision.variant
    assert chosen == {"better": "better", "cheap": "quick"}


@pytest.mark.parametrize("allowed_s", [0.05, 1.0], ids=["tight", "ample"])
def test_with_the_objective_cost_an_equally_accurate_variant_is_not_as_good(
    allowed_s: float,
) -> None:
    source = lane(allowed_s, variants=ALL)
    key = source.key._replace(cheapest_first=True)
    state = router_state([replace(source, key=key)], CHEAP, QUICK, WORSE)
    decision = pareto(state)
    assert isinstance(decision, Dispatch)
    assert decision.variant == "cheap"


def test_lanes_share_a_batch_if_none_of_them_prefers_a_more_accurate_variant() -> None:
    first, second = lane(0.1, variants=ALL), lane(0.2, variants=("cheap", "quick"))
    decision = pareto(router_state([first, second], CHEAP, QUICK))
    assert isinstance(decision, Dispatch)
    assert (decision.variant, decision.counts) == ("quick", ((first, 1), (second, 1)))


times = st.floats(0.001, 0.01)


@given(times, times, st.integers(1, 64), st.sampled_from([None, "a", "b"]))
def test_of_two_equal_idle_variants_the_slower_one_is_never_used(
    a_s: float, b_s: float, queued: int, last: str | None
) -> None:
    a, b = (replace(variant_state(name, s), accuracy=0.9) for name, s in (("a", a_s), ("b", b_s)))
    state = router_state([lane(*[0.2] * queued, variants=("a", "b"))], a, b)
    decision = pareto(replace(state, last_variant=last))
    assert isinstance(decision, Dispatch)
    assert {"a": a_s, "b": b_s}[decision.variant] == min(a_s, b_s)
