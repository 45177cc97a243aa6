from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.edf import (
    LaneTurn,
    earliest_first,
    fastest_typical,
    oldest_first,
)
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    RouterState,
    VariantState,
    Wait,
)
from tests.serving.routing.policy.states import (
    ALL,
    BUSY_DENSE,
    DENSE,
    INT8,
    PRUNED,
    lane,
    router_state,
    variant_state,
)


def best(turn: LaneTurn) -> Decision:
    return turn.send(turn.usable[0], turn.largest_batch(turn.usable[0]), "best")


def decide(state: RouterState) -> Decision:
    return earliest_first(state, best)


def test_the_lane_whose_head_is_due_first_is_served_first() -> None:
    relaxed, tight = lane(0.5, variants=["dense"]), lane(0.012, signature="other")
    decision = decide(router_state([relaxed, tight], DENSE))
    assert decision == Dispatch("dense", ((tight, 1),), 1, 0.010, "best")


def test_a_lane_whose_variant_is_busy_does_not_block_another() -> None:
    blocked, free = lane(0.1, variants=["dense"]), lane(0.2, variants=["int8"])
    decision = decide(router_state([blocked, free], BUSY_DENSE, INT8))
    assert decision == Dispatch("int8", ((free, 1),), 1, 0.002, "best")


def test_waits_for_the_first_of_the_busy_variants() -> None:
    lanes = [lane(0.1, variants=["dense"]), lane(0.2, variants=["int8"])]
    busy_int8 = variant_state("int8", 0.002, busy_s=0.003)
    assert decide(router_state(lanes, BUSY_DENSE, busy_int8)) == Wait(0.003)


def test_the_end_of_an_overdue_batch_has_no_time_to_wait_for() -> None:
    overdue = variant_state("dense", 0.010, slots=0)
    assert decide(router_state([lane(0.1)], overdue)) == Wait(0.1)
    assert decide(router_state([lane(math.inf)], overdue)) == Wait()


@pytest.mark.parametrize(
    ("due", "variants", "is_dropped"),
    [
        pytest.param(0.0009, [DENSE, INT8], True, id="not even the best case is in time"),
        pytest.param(0.0011, [DENSE, INT8], False, id="the best case of one is in time"),
        pytest.param(0.0011, [DENSE], True, id="the variant in time has no live replica"),
        pytest.param(
            0.0059, [variant_state("int8", 0.002, busy_s=0.005)], True, id="busy for too long"
        ),
        pytest.param(
            0.0061, [variant_state("int8", 0.002, busy_s=0.005)], False, id="free in time"
        ),
        pytest.param(0.0, [], True, id="no live replica, past the deadline"),
        pytest.param(0.1, [], False, id="no live replica, before the deadline"),
        pytest.param(math.inf, [], False, id="no deadline"),
    ],
)
def test_a_head_that_cannot_be_in_time_is_dropped(
    due: float, variants: Sequence[VariantState], is_dropped: bool
) -> None:
    late = lane(due)
    assert (decide(router_state([late], *variants)) == Drop(late)) is is_dropped


def test_oldest_first_drops_only_without_a_live_replica() -> None:
    late = lane(-1.0)
    decision = oldest_first(router_state([late], DENSE), best)
    assert decision == Dispatch("dense", ((late, 1),), 1, 0.010, "best")
    assert oldest_first(router_state([late]), best) == Drop(late)


def test_oldest_first_goes_by_arrival() -> None:
    old, tight = lane(0.5, arrived=-0.2), lane(0.1, arrived=-0.1, signature="other")
    decision = oldest_first(router_state([tight, old], DENSE), best)
    assert decision == Dispatch("dense", ((old, 1),), 1, 0.010, "best")


def test_the_objective_latency_gets_the_variant_that_answers_first() -> None:
    urgent = lane(0.1, fastest_first=True)
    busy_int8 = variant_state("int8", 0.002, busy_s=0.005)
    decision = decide(router_state([urgent], DENSE, PRUNED, busy_int8))
    assert decision == Dispatch("pruned", ((urgent, 1),), 1, 0.004, "best")


def test_the_batch_size_counts_samples_not_requests() -> None:
    many = lane(1.0, 1.0, 1.0, 1.0, sizes=[30, 30, 3, 3])
    decision = decide(router_state([many], DENSE))
    assert decision == Dispatch("dense", ((many, 3),), 63, 0.072, "best")


def test_a_request_larger_than_the_largest_batch_is_sent_alone() -> None:
    large = lane(1.0, 1.0, sizes=[100, 1])
    decision = decide(router_state([large], variant_state("dense", 0.010, 0.001, max_batch=64)))
    assert isinstance(decision, Dispatch)
    assert (decision.size, decision.counts) == (100, ((large, 1),))


def test_a_batch_is_filled_by_deadline_from_lanes_with_other_accuracy_limits() -> None:
    strict = lane(0.1, 0.3, variants=["dense"])
    loose = lane(0.2, 0.4, variants=["dense", "int8"])
    decision = decide(router_state([loose, strict], variant_state("dense", 0.010, max_batch=3)))
    assert decision == Dispatch("dense", ((strict, 2), (loose, 1)), 3, 0.010, "best")


def test_many_lanes_fill_a_batch_by_deadline() -> None:
    lanes = [lane(place / 10, 0.5, variants=ALL[:place]) for place in (1, 2, 3)]
    decision = decide(router_state(lanes, variant_state("dense", 0.010, max_batch=2)))
    assert decision == Dispatch("dense", ((lanes[0], 1), (lanes[1], 1)), 2, 0.010, "best")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lane(0.2, variants=["int8", "dense"]), id="another preference"),
        pytest.param(lane(0.2, variants=["dense"], signature="wide"), id="another shape"),
        pytest.param(lane(math.inf, variants=["dense"]), id="no deadline"),
        pytest.param(lane(0.2, variants=["dense"], fastest_first=True), id="another objective"),
    ],
)
def test_lanes_that_differ_in_other_ways_share_no_batch(other: Lane) -> None:
    first = lane(0.1, variants=["dense", "int8"])
    decision = decide(router_state([first, other], DENSE))
    assert decision == Dispatch("dense", ((first, 1),), 1, 0.010, "best")


def test_a_lane_for_which_the_variant_does_not_qualify_does_not_join() -> None:
    loose, strict = lane(0.005, variants=["dense", "int8"]), lane(0.1, variants=["dense"])
    decision = earliest_first(
        router_state([loose, strict], DENSE, INT8), lambda t: t.send(INT8, 64, "x")
    )
    assert decision == Dispatch("int8", ((loose, 1),), 1, 0.002, "x")


def test_a_lane_that_is_due_earlier_does_not_join() -> None:
    """It waits for a busy variant, and its slack was not considered for the size of the batch."""
    tight = lane(0.020, variants=["dense", "int8"])
    relaxed = lane(0.5, variants=["dense"])

    def wait_for_the_first_lane(turn: LaneTurn) -> Decision:
        return turn.wait_for(DENSE) if turn.lane is tight else best(turn)

    state = router_state([tight, relaxed], DENSE, INT8)
    decision = earliest_first(state, wait_for_the_first_lane)
    assert decision == Dispatch("dense", ((relaxed, 1),), 1, 0.010, "best")


def test_requests_due_before_the_first_one_sent_stay_in_the_queue() -> None:
    loose, strict = lane(0.1, 0.3, 0.4), lane(0.2, 0.5, variants=["dense"])
    other = lane(0.35, variants=["dense", "pruned"])

    def send_from_the_second_request(turn: LaneTurn) -> Decision:
        return turn.send(DENSE, 64, "x", skip=1)

    decision = earliest_first(
        router_state([strict, loose, other], DENSE), send_from_the_second_request
    )
    assert decision == Dispatch("dense", ((loose, 2), (other, 1)), 3, 0.012, "x", skip=1)


def test_without_a_deadline_only_the_best_variant_is_startable() -> None:
    seen: list[list[str]] = []

    def record(turn: LaneTurn) -> Decision:
        seen.append([variant.name for variant in turn.startable()])
        return Wait()

    earliest_first(router_state([lane(math.inf)], DENSE, INT8), record)
    earliest_first(router_state([lane(math.inf)], BUSY_DENSE, INT8), record)
    earliest_first(router_state([lane(0.1)], BUSY_DENSE, INT8), record)
    assert seen == [["dense"], [], ["int8"]]


def test_the_fastest_variant_depends_on_the_size() -> None:
    flat = variant_state("flat", 0.010)
    assert fastest_typical([flat, INT8], 1) is INT8
    assert fastest_typical([flat, INT8], 100) is flat
