from __future__ import annotations

import pytest

from serving.routing.policy.queue_view import (
    GROUP_GROWTH,
    MAX_GROUPS,
    MAX_OTHER_LANES,
    QueueView,
    fastest_variant,
    groups_of,
    live_variants,
)
from serving.routing.policy.state import Lane
from tests.serving.routing.policy.states import DENSE, INT8, PRUNED, lane, router_state

LONG = lane(*[0.1] * 1000)


def test_live_variants_are_in_the_order_of_preference_of_the_lane() -> None:
    state = router_state([LONG], DENSE, INT8)
    assert live_variants(lane(0.1), state) == [DENSE, INT8]
    assert live_variants(lane(0.1, variants=["int8", "pruned", "dense"]), state) == [INT8, DENSE]
    assert live_variants(lane(0.1, fastest_first=True), state) == [INT8, DENSE]


def test_the_fastest_variant_is_that_for_the_size() -> None:
    assert fastest_variant([DENSE, PRUNED, INT8], 1) is INT8


@pytest.mark.parametrize("place", [0, 1, 999, 1000])
def test_groups_grow_and_hold_every_request_once(place: int) -> None:
    counts = [group.requests for group in groups_of(LONG, place, INT8, 0.0, 1.0)]
    assert sum(counts) == 1000 - place
    assert len(counts) <= MAX_GROUPS
    done = 0
    for count in counts[: MAX_GROUPS - 1]:
        assert done + count <= max(1, GROUP_GROWTH * done)
        done += count


def test_a_group_has_the_deadline_of_its_last_request_and_the_time_for_all_up_to_it() -> None:
    first, second = groups_of(lane(0.01, 0.02), 0, INT8, 0.005, 0.9)
    assert (first.requests, first.left_s, first.needed_s) == (1, 0.005, INT8.times.within_s(1))
    assert (second.requests, second.needed_s) == (1, INT8.times.within_s(2))
    assert second.left_s == pytest.approx(0.015)


def test_other_lanes_are_served_one_after_another() -> None:
    lanes = [lane(0.1 + place, signature=str(place)) for place in range(MAX_OTHER_LANES + 2)]
    view = QueueView(lanes, router_state(lanes, INT8))
    groups = view.other_groups(lanes[0])
    assert len(groups) == MAX_OTHER_LANES
    step_s = INT8.times.within_s(1)
    assert [group.needed_s for group in groups] == pytest.approx(
        [step_s * (place + 1) for place in range(MAX_OTHER_LANES)]
    )


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lane(float("inf"), signature="other"), id="no deadline"),
        pytest.param(lane(0.1, variants=["dense"]), id="no live replica"),
    ],
)
def test_other_lanes_that_do_not_compete_are_left_out(other: Lane) -> None:
    own = lane(0.1, variants=["int8"])
    assert QueueView([own, other], router_state([own, other], INT8)).other_groups(own) == []
