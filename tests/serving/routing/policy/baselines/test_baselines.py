"""What holds for every baseline, in any situation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from serving.routing.policy.baselines.closest_fit import closest_fit
from serving.routing.policy.baselines.fastest import fastest
from serving.routing.policy.baselines.fifo import fifo
from serving.routing.policy.baselines.fixed import fixed
from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.baselines.max_batch import max_batch
from serving.routing.policy.baselines.mmc import mmc
from serving.routing.policy.baselines.proteus import proteus
from serving.routing.policy.baselines.round_robin import round_robin
from serving.routing.policy.baselines.slack_fit import slack_fit
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    LaneKey,
    Policy,
    QueuedRequest,
    QueueOrder,
    RouterState,
    VariantState,
    Wait,
)
from tests.serving.routing.policy.states import ALL, DENSE, PRUNED, chooses, lane, variant_state

BASELINES: Mapping[str, Policy] = {
    "closest_fit": closest_fit,
    "fastest": fastest,
    "fifo": fifo,
    "fixed": fixed,
    "max_acc": max_acc,
    "max_batch": max_batch,
    "mmc": mmc,
    "proteus": proteus,
    "round_robin": round_robin,
    "slack_fit": slack_fit,
}

WORK_CONSERVING = ("closest_fit", "max_acc", "max_batch", "slack_fit")
"""They use whatever is free; the others wait for what they chose."""

NAMES = ("dense", "pruned", "sparse", "int8")

NOW = 1000.0


@st.composite
def variants(draw: st.DrawFn, name: str) -> VariantState:
    made = variant_state(
        name,
        draw(st.floats(1e-4, 0.05)),
        draw(st.floats(0, 0.01)),
        slots=draw(st.integers(1, 4)),
        best_case=draw(st.floats(0.3, 1)),
        residuals=draw(st.floats(1, 3)),
        max_batch=draw(st.sampled_from([1, 7, 16, 64])),
        batches_sent=draw(st.integers(0, 100)),
    )
    free_slots = draw(st.integers(0, made.slots))
    # A batch may run for longer than was expected: then it should be free by now, and is not.
    free_in_s = 0.0 if free_slots else draw(st.just(0.0) | st.floats(1e-4, 0.1))
    return replace(made, free_slots=free_slots, free_in_s=free_in_s)


@st.composite
def states(draw: st.DrawFn) -> RouterState:
    alive = draw(st.lists(st.sampled_from(NAMES), unique=True))
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
        {name: draw(variants(name)) for name in NAMES if name in alive},
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
def test_an_objective_of_latency_gets_what_answers_first(name: str) -> None:
    busy = variant_state("int8", 0.002, busy_s=0.003)
    choose = chooses(BASELINES[name])
    urgent = lane(0.1, variants=ALL, fastest_first=True)
    assert choose([urgent], DENSE, PRUNED, busy) == ("pruned", 1)


def in_full(shown: RouterState) -> object:
    return [(lane, tuple(lane.requests), lane.samples) for lane in shown.lanes], dict(
        shown.variants
    )


def sent_by(decision: Dispatch) -> list[QueuedRequest[None]]:
    (first_lane, count), *mates = decision.counts
    first = first_lane.requests[decision.skip :][:count]
    assert len(first) == count
    return first + [w for mate, count in mates for w in mate.requests[:count]]


def apply(
    decision: Dispatch | Drop, shown: RouterState, sent: Callable[[VariantState], VariantState]
) -> RouterState:
    """Return what is left after a decision; `sent` says how a variant is after a batch."""
    gone = sent_by(decision) if isinstance(decision, Dispatch) else decision.lane.requests[:1]
    lanes = []
    for before in shown.lanes:
        rest = [request for request in before.requests if request not in gone]
        if rest:
            lanes.append(Lane(before.key, rest, sum(request.size for request in rest)))
    after = dict(shown.variants)
    if isinstance(decision, Dispatch):
        after[decision.variant] = sent(after[decision.variant])
    return replace(shown, lanes=lanes, variants=after)


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
    """Make a test of a check: of every baseline, in many situations."""

    def test(shown: RouterState) -> None:
        for name in BASELINES:
            note(name)
            check(name, shown)

    test.__qualname__ = check.__qualname__
    return given(shown=states())(test)


@every_baseline
def test_a_decision_is_valid(name: str, shown: RouterState) -> None:
    decision = BASELINES[name](shown)
    match decision:
        case Dispatch():
            chosen = shown.variants[decision.variant]
            requests = sent_by(decision)
            assert chosen.free_slots > 0
            assert all(lane in shown.lanes and count > 0 for lane, count in decision.counts)
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
            assert lane in shown.lanes
            assert lane.requests[0].deadline < math.inf
        case Wait(until):
            assert until > shown.now


@every_baseline
def test_a_decision_is_a_function_of_what_is_shown(name: str, shown: RouterState) -> None:
    before = in_full(shown)
    first = BASELINES[name](shown)
    assert BASELINES[name](shown) == first
    assert in_full(shown) == before


@every_baseline
def test_a_request_is_dropped_only_where_nothing_could_be_in_time(
    name: str, shown: RouterState
) -> None:
    decision = BASELINES[name](shown)
    if not isinstance(decision, Drop):
        return
    head = decision.lane.requests[0]
    alive = [shown.variants[n] for n in head.key.variants if n in shown.variants]
    if name == "fixed" and not head.key.fastest_first:
        alive = alive[:1]
    if alive:
        assert name != "fifo"
        in_time = [
            shown.now + c.free_in_s + c.best_case_s(head.size) <= head.deadline for c in alive
        ]
        assert not (in_time[0] if name == "fixed" else any(in_time))
    else:
        assert head.deadline <= shown.now


@every_baseline
def test_waits_at_last_and_then_for_a_reason(name: str, shown: RouterState) -> None:
    decision: Decision
    for _ in range(sum(len(each.requests) for each in shown.lanes) + 1):
        decision = BASELINES[name](shown)
        if isinstance(decision, Wait):
            break
        shown = apply(decision, shown, busier)
    assert isinstance(decision, Wait)
    assert decision.until > shown.now
    if name in WORK_CONSERVING:
        for left in shown.lanes:
            alive = [shown.variants[n] for n in left.key.variants if n in shown.variants]
            if left.key.has_deadline and not left.key.fastest_first:
                head = left.requests[0]
                assert not any(could_start(variant, head, shown.now) for variant in alive)


@every_baseline
def test_hosts_that_are_always_free_leave_nothing_waiting(name: str, shown: RouterState) -> None:
    free = {n: replace(c, free_slots=1, free_in_s=0.0) for n, c in shown.variants.items()}
    lanes = [lane for lane in shown.lanes if any(n in free for n in lane.key.variants)]
    shown = replace(shown, variants=free, lanes=lanes)
    steps = 2 * sum(len(lane.requests) for lane in lanes)
    while shown.lanes:
        assert steps
        steps -= 1
        decision = BASELINES[name](shown)
        if isinstance(decision, Wait):
            assert shown.now < decision.until < math.inf
            assert name == "proteus"
            shown = replace(shown, now=decision.until)
        else:
            shown = apply(decision, shown, lambda c: replace(c, batches_sent=c.batches_sent + 1))
