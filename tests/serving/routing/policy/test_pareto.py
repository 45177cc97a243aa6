from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    RouterState,
    VariantState,
    Wait,
)
from tests.serving.routing.policy import states as states
from tests.serving.routing.policy.states import ALL, lane, router_state

ACCURACIES = {"dense": 0.90, "pruned": 0.89, "int8": 0.87}


def variant_state(
    name: str, first_s: float, each_s: float = 0.0, **parameters: float
) -> VariantState:
    """Return a variant with the accuracy that belongs to its name."""
    variant = states.variant_state(name, first_s, each_s, **parameters)  # type: ignore[arg-type]
    return replace(variant, accuracy=ACCURACIES[name])


DENSE = variant_state("dense", 0.010, 0.001)
PRUNED = variant_state("pruned", 0.004, 0.0005)
INT8 = variant_state("int8", 0.002, 0.0001)
BUSY_DENSE = variant_state("dense", 0.010, 0.001, busy_s=0.005)


def choose(lanes: Sequence[Lane], *variants: VariantState) -> Decision:
    return pareto(router_state(lanes, *variants))


def outcome(decision: Decision) -> object:
    match decision:
        case Dispatch():
            return decision.variant, decision.size
        case _:
            return type(decision)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param(
            [math.inf], [DENSE, PRUNED, INT8], ("dense", 1), id="no deadline: the best variant"
        ),
        pytest.param(
            [0.1], [DENSE, PRUNED, INT8], ("dense", 1), id="enough time: the best variant"
        ),
        pytest.param([0.009], [DENSE, PRUNED, INT8], ("pruned", 1), id="too tight for the best"),
        pytest.param(
            [0.003], [DENSE, PRUNED, INT8], ("int8", 1), id="only the fastest variant is in time"
        ),
        pytest.param(
            [0.0005], [DENSE, PRUNED, INT8], Drop, id="too late even in the best case: drop"
        ),
        pytest.param([-1.0], [DENSE, PRUNED, INT8], Drop, id="past the deadline: drop"),
        pytest.param(
            [0.014], [BUSY_DENSE, PRUNED], ("pruned", 1), id="busy for too long: the next variant"
        ),
        pytest.param(
            [math.inf], [BUSY_DENSE, INT8], Wait, id="no deadline: wait for the best variant"
        ),
        pytest.param([0.1], [INT8], ("int8", 1), id="only live variants count"),
        pytest.param([0.1], [], Wait, id="no live replica: wait"),
        pytest.param([0.0], [], Drop, id="no live replica at the deadline: drop"),
        pytest.param([0.1] * 40, [DENSE, INT8], ("dense", 40), id="the batch grows with the queue"),
        pytest.param([0.2] * 100, [DENSE], ("dense", 64), id="the largest batch"),
        pytest.param([0.015] * 3, [DENSE, INT8], ("dense", 3), id="three fit in one batch"),
        pytest.param(
            [0.030] * 40,
            [DENSE, INT8],
            ("int8", 40),
            id="too many for the best variant: a faster one",
        ),
    ],
)
def test_choice(deadlines: list[float], variants: list[VariantState], expected: object) -> None:
    assert outcome(choose([lane(*deadlines)], *variants)) == expected


def test_earliest_deadline_first_across_lanes() -> None:
    relaxed = lane(0.5, variants=["dense"])
    tight = lane(0.012)
    decision = choose([relaxed, tight], DENSE, INT8)
    assert isinstance(decision, Dispatch)
    (source, _), *_ = decision.counts
    assert source is tight


def test_a_lane_that_waits_does_not_block_the_next() -> None:
    blocked = lane(0.020, variants=["dense"])
    free = lane(0.5, variants=["int8"])
    decision = choose([blocked, free], BUSY_DENSE, INT8)
    assert isinstance(decision, Dispatch)
    assert decision.counts == ((free, 1),)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lane(math.inf, signature="other"), id="of another shape"),
        pytest.param(
            lane(math.inf, variants=["int8", "dense"]), id="of a lane that prefers another variant"
        ),
        pytest.param(lane(math.inf, fastest_first=True), id="with the objective latency"),
    ],
)
def test_no_batch_with_requests(other: Lane) -> None:
    preferred = lane(0.5)
    decision = choose([preferred, other], DENSE, INT8)
    assert isinstance(decision, Dispatch)
    assert decision.counts == ((preferred, 1),)


def test_fastest_first_takes_the_variant_that_answers_first() -> None:
    urgent = lane(0.5, fastest_first=True)
    assert outcome(choose([urgent], DENSE, PRUNED, INT8)) == ("int8", 1)
    busy = variant_state("int8", 0.002, busy_s=0.004)
    assert outcome(choose([urgent], DENSE, PRUNED, busy)) == ("pruned", 1)


def test_a_request_too_large_for_the_best_variant_goes_to_another() -> None:
    decision = choose([lane(0.015, sizes=[32])], DENSE, INT8)
    assert outcome(decision) == ("int8", 32)


def test_a_request_that_is_late_anyway_does_not_delay_the_others() -> None:
    # The first request has less than the 2 ms that a batch of 1 takes; the others are in time in a
    # batch of 20.
    late = lane(0.0019, *[0.006] * 20, variants=["int8"])
    decision = choose([late], variant_state("int8", 0.002, 0.0002, best_case=0.9))
    assert isinstance(decision, Dispatch)
    assert (decision.skip, decision.size) == (1, 20)


variant_states_ = st.lists(
    st.builds(
        variant_state,
        st.sampled_from(ALL),
        st.floats(1e-4, 0.05),
        st.floats(0, 1e-3),
        slots=st.integers(1, 2),
        busy_s=st.just(0.0) | st.floats(0.001, 0.05),
        residuals=st.floats(1, 3),
        max_batch=st.sampled_from([16, 64]),
    ),
    max_size=3,
    unique_by=lambda variant: variant.name,
)


@st.composite
def lanes_(draw: st.DrawFn) -> Lane:
    deadlines = draw(st.lists(st.floats(-0.01, 0.5), min_size=1, max_size=60))
    if draw(st.booleans()):
        deadlines = [math.inf] * len(deadlines)
    sizes = st.lists(st.integers(1, 16), min_size=len(deadlines), max_size=len(deadlines))
    return lane(
        *deadlines,
        variants=draw(st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True)),
        sizes=draw(st.just([]) | sizes),
        signature=draw(st.sampled_from(["", "other"])),
        fastest_first=draw(st.booleans()),
    )


@st.composite
def router_states_(draw: st.DrawFn) -> RouterState:
    lanes = draw(st.lists(lanes_(), min_size=1, max_size=4))
    drawn = router_state(lanes, *draw(variant_states_))
    rate, slack_s = draw(st.floats(0, 1000)), draw(st.floats(0.001, 1))
    cores = draw(st.sampled_from([1.0, 2.0, math.inf]))
    return replace(
        drawn,
        free_cores=cores,
        arrivals_per_s=rate,
        expected_misses=lambda held_s: rate * max(0.0, held_s - slack_s),
    )


def without_first(state: RouterState, lane: Lane) -> RouterState:
    """Return the state without the first request of a lane."""
    first, *rest = lane.requests
    shorter = [Lane(lane.key, rest, lane.samples - first.size)] if rest else []
    return replace(state, lanes=[*(each for each in state.lanes if each is not lane), *shorter])


@given(router_states_())
def test_every_dispatch_is_valid(state: RouterState) -> None:
    while isinstance(decision := pareto(state), Drop):
        state = without_first(state, decision.lane)
    if not isinstance(decision, Dispatch):
        reject()
    chosen = state.variants[decision.variant]
    assert chosen.free_slots > 0
    taken = []
    for place, (source, count) in enumerate(decision.counts):
        skip = 0 if place else decision.skip
        assert 1 <= count <= len(source.requests) - skip
        assert chosen.name in source.key.variants
        taken += source.requests[skip : skip + count]
    assert len({source.key.signature for source, _ in decision.counts}) == 1
    assert decision.size == sum(request.size for request in taken)
    assert decision.size <= chosen.max_batch or len(taken) == 1
    assert decision.predicted_s == chosen.times.within_s(decision.size)


@given(router_states_())
def test_a_request_that_a_variant_could_answer_is_not_dropped(state: RouterState) -> None:
    decision = pareto(state)
    if not isinstance(decision, Drop):
        reject()
    first = decision.lane.requests[0]
    for variant in state.variants.values():
        if variant.name in decision.lane.key.variants:
            assert variant.free_in_s + variant.best_case_s(first.size) > first.deadline


@given(router_states_())
def test_a_wait_ends_in_the_future_and_has_a_reason(state: RouterState) -> None:
    decision = pareto(state)
    if not isinstance(decision, Wait):
        reject()
    assert decision.until > state.now or any(
        not each.free_slots for each in state.variants.values()
    )
    for source in state.lanes:
        live = [name for name in source.key.variants if name in state.variants]
        if live and source.key.has_deadline:
            assert any(not state.variants[name].free_slots for name in live)


@pytest.mark.parametrize("queued", [64, 65, 100, 128])
def test_with_free_cores_a_queue_of_any_length_gets_the_best_variant(queued: int) -> None:
    state = replace(router_state([lane(*[0.5] * queued)], DENSE, INT8), free_cores=2)
    decision = pareto(state)
    assert isinstance(decision, Dispatch)
    assert (decision.variant, decision.size) == ("dense", 64)
