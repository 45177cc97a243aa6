"""Properties of every baseline, in any state of the router."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, note
from hypothesis import strategies as st

from serving.routing.policy import POLICIES
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    LaneKey,
    QueuedRequest,
    QueueOrder,
    RouterState,
    VariantState,
    Wait,
)
from tests.serving.routing.policy.states import ALL, DENSE, PRUNED, chooser, lane, variant_state

BASELINES = {name: policy for name, policy in POLICIES.items() if name != "pareto"}

WORK_CONSERVING = ("closest_fit", "max_acc", "max_batch", "slack_fit")
"""The baselines that use any free variant. The others wait for the variant they have chosen."""

NAMES = ("dense", "pruned", "sparse", "int8")

NOW = 1000.0


@st.composite
def variant_states(draw: st.DrawFn, name: str) -> VariantState:
    variant = variant_state(
        name,
        draw(st.floats(1e-4, 0.05)),
        draw(st.floats(0, 0.01)),
        slots=draw(st.integers(1, 4)),
        best_case=draw(st.floats(0.3, 1)),
        residuals=draw(st.floats(1, 3)),
        max_batch=draw(st.sampled_from([1, 7, 16, 64])),
        batches_sent=draw(st.integers(0, 100)),
    )
    free_slots = draw(st.integers(0, variant.slots))
    # A batch may take longer than expected: then the slot is not free although `free_in_s` is 0.
    free_in_s = 0.0 if free_slots else draw(st.just(0.0) | st.floats(1e-4, 0.1))
    return replace(variant, free_slots=free_slots, free_in_s=free_in_s)


@st.composite
def router_states(draw: st.DrawFn) -> RouterState:
    live = draw(st.lists(st.sampled_from(NAMES), unique=True))
    keys = draw(
        st.lists(
            st.builds(
                LaneKey,
                st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple)
                | st.integers(1, 4).map(lambda count: NAMES[:count]),
                st.booleans(),
                st.booleans(),
                st.sampled_from(["", "wide"]),
            ),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    return RouterState(
        [draw(_lanes(key, place)) for place, key in enumerate(keys)],
        {name: draw(variant_states(name)) for name in NAMES if name in live},
        NOW,
        arrivals_per_s=draw(st.floats(0, 5000)),
    )


@st.composite
def _lanes(draw: st.DrawFn, key: LaneKey, place: int) -> Lane:
    requests = []
    for number in range(draw(st.integers(1, 12))):
        arrived = NOW - draw(st.floats(0, 0.1))
        deadline = NOW + draw(st.floats(-0.05, 0.3)) if key.has_deadline else math.inf
        order = QueueOrder(deadline if key.has_deadline else arrived + 1, 10, 100 * place + number)
        size = draw(st.sampled_from([1, 1, 1, 2, 3, 20, 70]))
        requests.append(QueuedRequest(size, deadline, order, key, None, arrived))
    requests.sort(key=lambda request: request.order)
    return Lane(key, requests, sum(request.size for request in requests))


@pytest.mark.parametrize("name", BASELINES)
def test_the_objective_latency_gets_the_variant_that_answers_first(name: str) -> None:
    busy = variant_state("int8", 0.002, busy_s=0.003)
    choose = chooser(BASELINES[name])
    urgent = lane(0.1, variants=ALL, fastest_first=True)
    assert choose([urgent], DENSE, PRUNED, busy) == ("pruned", 1)


def contents(state: RouterState) -> object:
    return [(lane, tuple(lane.requests), lane.samples) for lane in state.lanes], dict(
        state.variants
    )


def sent_by(decision: Dispatch) -> list[QueuedRequest[None]]:
    (first_lane, count), *others = decision.counts
    first = first_lane.requests[decision.skip :][:count]
    assert len(first) == count
    return first + [w for other, count in others for w in other.requests[:count]]


def apply(
    decision: Dispatch | Drop, state: RouterState, sent: Callable[[VariantState], VariantState]
) -> RouterState:
    """Return the state after a decision; `sent` returns a variant's state after a batch."""
    removed = sent_by(decision) if isinstance(decision, Dispatch) else decision.lane.requests[:1]
    lanes = []
    for before in state.lanes:
        rest = [request for request in before.requests if request not in removed]
        if rest:
            lanes.append(Lane(before.key, rest, sum(request.size for request in rest)))
    after = dict(state.variants)
    if isinstance(decision, Dispatch):
        after[decision.variant] = sent(after[decision.variant])
    return replace(state, lanes=lanes, variants=after)


def busier(variant: VariantState) -> VariantState:
    left = variant.free_slots - 1
    return replace(
        variant,
        free_slots=left,
        free_in_s=0.0 if left else 0.01,
        batches_sent=variant.batches_sent + 1,
    )


def could_start(variant: VariantState, head: QueuedRequest[None], now: float) -> bool:
    return bool(variant.free_slots) and now + variant.best_case_s(head.size) <= head.deadline


def every_baseline(check: Callable[[str, RouterState], None]) -> Callable[[], None]:
    """Turn a check into a test of every baseline in many states."""

    def test(state: RouterState) -> None:
        for name in BASELINES:
            note(name)
            check(name, state)

    test.__qualname__ = check.__qualname__
    return given(state=router_states())(test)


@every_baseline
def test_a_decision_is_valid(name: str, state: RouterState) -> None:
    decision = BASELINES[name](state)
    match decision:
        case Dispatch():
            chosen = state.variants[decision.variant]
            requests = sent_by(decision)
            assert chosen.free_slots > 0
            assert all(lane in state.lanes and count > 0 for lane, count in decision.counts)
            assert len({id(lane) for lane, _ in decision.counts}) == len(decision.counts)
            assert len({lane.key.signature for lane, _ in decision.counts}) == 1
            assert all(decision.variant in w.key.variants for w in requests)
            assert requests
            assert decision.size == sum(w.size for w in requests)
            assert decision.size <= chosen.max_batch or len(requests) == 1
            assert decision.predicted_s == chosen.times.within_s(decision.size)
            assert decision.reason == name
            assert decision.skip == 0 or name == "fixed"
        case Drop(lane):
            assert lane in state.lanes
            assert lane.requests[0].deadline < math.inf
        case Wait(until):
            assert until > state.now


@every_baseline
def test_a_decision_is_a_function_of_the_state(name: str, state: RouterState) -> None:
    before = contents(state)
    first = BASELINES[name](state)
    assert BASELINES[name](state) == first
    assert contents(state) == before


@given(router_states())
def test_a_request_is_dropped_only_if_no_variant_could_be_in_time(state: RouterState) -> None:
    decisions = {name: policy(state) for name, policy in BASELINES.items()}
    dropped_from = {name: each.lane for name, each in decisions.items() if isinstance(each, Drop)}
    assume(dropped_from)
    for name, source in dropped_from.items():
        note(name)
        head = source.requests[0]
        live = [state.variants[n] for n in head.key.variants if n in state.variants]
        if name == "fixed" and not head.key.fastest_first:
            live = live[:1]
        if live:
            assert name != "fifo"
            in_time = [
                state.now + c.free_in_s + c.best_case_s(head.size) <= head.deadline for c in live
            ]
            assert not (in_time[0] if name == "fixed" else any(in_time))
        else:
            assert head.deadline <= state.now


@every_baseline
def test_a_policy_ends_with_a_justified_wait(name: str, state: RouterState) -> None:
    decision: Decision
    for _ in range(sum(len(each.requests) for each in state.lanes) + 1):
        decision = BASELINES[name](state)
        if isinstance(decision, Wait):
            break
        state = apply(decision, state, busier)
    assert isinstance(decision, Wait)
    assert decision.until > state.now
    if name in WORK_CONSERVING:
        for left in state.lanes:
            live = [state.variants[n] for n in left.key.variants if n in state.variants]
            if left.key.has_deadline and not left.key.fastest_first:
                head = left.requests[0]
                assert not any(could_start(variant, head, state.now) for variant in live)


@every_baseline
def test_hosts_that_are_always_free_leave_no_request_queued(name: str, state: RouterState) -> None:
    free = {n: replace(c, free_slots=1, free_in_s=0.0) for n, c in state.variants.items()}
    lanes = [lane for lane in state.lanes if any(n in free for n in lane.key.variants)]
    state = replace(state, variants=free, lanes=lanes)
    steps = 2 * sum(len(lane.requests) for lane in lanes)
    while state.lanes:
        assert steps
        steps -= 1
        decision = BASELINES[name](state)
        if isinstance(decision, Wait):
            assert state.now < decision.until < math.inf
            assert name == "proteus"
            state = replace(state, now=decision.until)
        else:
            state = apply(decision, state, lambda c: replace(c, batches_sent=c.batches_sent + 1))
