from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.situation import Candidate, Dispatch, Drop, Lane, LaneKey, Wait, Waiting
from serving.policy.slack import slack

ALL = ("dense", "pruned", "int8")


def variant(
    name: str,
    first_s: float,
    each_s: float = 0.0,
    *,
    free: int = 1,
    free_in_s: float = 0.0,
    best_case: float = 0.5,
    max_batch: int = 64,
) -> Candidate:
    """A variant that takes `first_s`, and `each_s` more for every further sample of a batch."""

    def predict_s(size: int) -> float:
        return first_s + each_s * (size - 1)

    return Candidate(
        name,
        max(free, 1),
        free,
        free_in_s,
        max_batch,
        predict_s,
        lambda size: best_case * predict_s(size),
    )


def lane(
    *deadlines: float,
    variants: Sequence[str] = ALL,
    fastest_first: bool = False,
    signature: str = "",
    size: int = 1,
) -> Lane:
    """Requests that are due so many seconds from now, which is 0."""
    key = LaneKey(tuple(variants), fastest_first, deadlines[0] < math.inf, signature)
    waiting = [
        Waiting(size, deadline, (min(deadline, 1.0), 10, number), key)
        for number, deadline in enumerate(sorted(deadlines))
    ]
    return Lane(key, waiting, size * len(waiting))


def choose(lanes: Sequence[Lane], *candidates: Candidate) -> Dispatch | Drop | Wait:
    return slack(lanes, {candidate.name: candidate for candidate in candidates}, 0.0)


DENSE = variant("dense", 0.010, 0.001)
PRUNED = variant("pruned", 0.004, 0.0005)
INT8 = variant("int8", 0.002, 0.0001)
BUSY_DENSE = variant("dense", 0.010, 0.001, free=0, free_in_s=0.005)


def outcome(decision: Dispatch | Drop | Wait) -> object:
    match decision:
        case Dispatch():
            return decision.variant, decision.size, decision.reason
        case _:
            return type(decision)


@pytest.mark.parametrize(
    ("deadlines", "candidates", "expected"),
    [
        pytest.param(
            [math.inf], [DENSE, PRUNED, INT8], ("dense", 1, "preferred"), id="no deadline: the best"
        ),
        pytest.param(
            [0.1], [DENSE, PRUNED, INT8], ("dense", 1, "preferred"), id="time enough: the best"
        ),
        pytest.param(
            [0.010], [DENSE, PRUNED, INT8], ("dense", 1, "preferred"), id="just in time is in time"
        ),
        pytest.param(
            [0.009], [DENSE, PRUNED, INT8], ("pruned", 1, "in time"), id="too tight for the best"
        ),
        pytest.param(
            [0.003], [DENSE, PRUNED, INT8], ("int8", 1, "in time"), id="only the fastest is in time"
        ),
        pytest.param(
            [0.0015], [DENSE, PRUNED, INT8], ("int8", 1, "at risk"), id="perhaps in time: try"
        ),
        pytest.param([0.0005], [DENSE, PRUNED, INT8], Drop, id="hopeless even at best: drop"),
        pytest.param([-1.0], [DENSE, PRUNED, INT8], Drop, id="past its deadline: drop"),
        pytest.param(
            [0.020], [BUSY_DENSE, PRUNED], Wait, id="the best is busy but will be in time: wait"
        ),
        pytest.param(
            [0.014], [BUSY_DENSE, PRUNED], ("pruned", 1, "in time"), id="busy for too long: go on"
        ),
        pytest.param([math.inf], [BUSY_DENSE, INT8], Wait, id="no deadline: wait for the best"),
        pytest.param(
            [0.009],
            [variant("dense", 0.010, free=0, free_in_s=0.001)],
            Wait,
            id="busy, and perhaps in time: wait, it may be lucky",
        ),
        pytest.param([0.1], [INT8], ("int8", 1, "preferred"), id="only what is alive counts"),
        pytest.param([0.1], [], Wait, id="nothing alive: wait, one may come back"),
        pytest.param([0.0], [], Drop, id="nothing alive and the time is up: drop"),
        pytest.param(
            [0.1] * 40,
            [DENSE, INT8],
            ("dense", 40, "preferred"),
            id="the batch grows with the queue",
        ),
        pytest.param(
            [0.1] * 100, [DENSE], ("dense", 64, "behind"), id="behind: the largest batch there is"
        ),
        pytest.param(
            [0.015] * 3, [DENSE, INT8], ("dense", 3, "preferred"), id="three fit in one batch"
        ),
        pytest.param(
            [0.030] * 40,
            [DENSE, INT8],
            ("int8", 17, "in time"),
            id="the best can work off only a part of the queue: degrade the rest",
        ),
    ],
)
def test_choice(deadlines: list[float], candidates: list[Candidate], expected: object) -> None:
    assert outcome(choose([lane(*deadlines)], *candidates)) == expected


def test_only_those_that_the_best_would_make_late_are_degraded() -> None:
    decision = choose([lane(0.005, *[10.0] * 20)], DENSE, INT8)
    assert outcome(decision) == ("int8", 1, "in time")


def test_earliest_deadline_first_across_lanes() -> None:
    relaxed = lane(0.5, variants=["dense"])
    tight = lane(0.012)
    decision = choose([relaxed, tight], DENSE, INT8)
    assert isinstance(decision, Dispatch)
    assert decision.counts[0][0] is tight


def test_requests_that_would_get_the_variant_anyway_ride_along() -> None:
    tight, pinned = lane(0.012), lane(math.inf, math.inf, math.inf, variants=["dense"])
    decision = choose([tight, pinned], DENSE, INT8)
    assert isinstance(decision, Dispatch)
    # 12 ms hold a batch of two, not of four.
    assert decision.counts == ((tight, 1), (pinned, 1))
    assert decision.predicted_s <= 0.012


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lane(math.inf, signature="other"), id="of another shape"),
        pytest.param(lane(math.inf, variants=["int8", "dense"]), id="that prefer another variant"),
        pytest.param(lane(math.inf, fastest_first=True), id="that want whatever is fastest"),
    ],
)
def test_no_batch_with_requests(other: Lane) -> None:
    mine = lane(0.5)
    decision = choose([mine, other], DENSE, INT8)
    assert isinstance(decision, Dispatch)
    assert decision.counts == ((mine, 1),)


def test_fastest_first_takes_what_answers_first_whatever_the_order() -> None:
    wants_speed = lane(math.inf, fastest_first=True)
    assert outcome(choose([wants_speed], DENSE, PRUNED, INT8)) == ("int8", 1, "preferred")
    busy = variant("int8", 0.002, free=0, free_in_s=0.004)
    assert outcome(choose([wants_speed], DENSE, PRUNED, busy)) == ("pruned", 1, "preferred")


def test_a_lane_that_waits_does_not_hold_up_the_next() -> None:
    waits = lane(0.020, variants=["dense"])
    goes = lane(0.5, variants=["int8"])
    decision = choose([waits, goes], BUSY_DENSE, INT8)
    assert isinstance(decision, Dispatch)
    assert decision.counts == ((goes, 1),)


def test_waiting_ends_when_the_busy_variant_would_be_too_late() -> None:
    decision = choose([lane(0.020)], BUSY_DENSE, PRUNED)
    assert isinstance(decision, Wait)
    assert decision.until == pytest.approx(0.010)


def test_a_request_larger_than_its_slack_allows_still_goes_alone() -> None:
    decision = choose([lane(0.015, size=32)], DENSE, INT8)
    assert outcome(decision) == ("int8", 32, "in time")


candidates_ = st.lists(
    st.builds(
        variant,
        st.sampled_from(ALL),
        st.floats(1e-4, 0.05),
        st.floats(0, 1e-3),
        free=st.integers(0, 2),
        free_in_s=st.floats(0, 0.05),
    ),
    max_size=3,
    unique_by=lambda candidate: candidate.name,
)
lanes_ = st.lists(
    st.builds(
        lambda deadlines, names, size: lane(*deadlines, variants=names, size=size),
        st.lists(st.floats(-0.01, 0.5), min_size=1, max_size=60),
        st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True),
        st.integers(1, 8),
    ),
    min_size=1,
    max_size=4,
)


@given(lanes=lanes_, candidates=candidates_)
def test_every_dispatch_keeps_the_rules(lanes: list[Lane], candidates: list[Candidate]) -> None:
    decision = choose(lanes, *candidates)
    if not isinstance(decision, Dispatch):
        return
    chosen = next(c for c in candidates if c.name == decision.variant)
    assert chosen.free_slots > 0
    assert decision.size == sum(
        request.size for lane, count in decision.counts for request in lane.requests[:count]
    )
    assert all(chosen.name in lane.key.variants for lane, _ in decision.counts)
    assert all(1 <= count <= len(lane.requests) for lane, count in decision.counts)
    if decision.reason != "at risk":
        firsts = [lane.requests[0] for lane, _ in decision.counts]
        is_alone = len(decision.counts) == 1 and decision.counts[0][1] == 1
        assert is_alone or decision.predicted_s <= min(first.deadline for first in firsts)


@given(lanes=lanes_, candidates=candidates_)
def test_nothing_is_dropped_that_somebody_could_answer(
    lanes: list[Lane], candidates: list[Candidate]
) -> None:
    decision = choose(lanes, *candidates)
    if isinstance(decision, Drop):
        first = decision.lane.requests[0]
        for candidate in candidates:
            if candidate.name in decision.lane.key.variants:
                assert candidate.free_in_s + candidate.idle_s(first.size) > first.deadline
