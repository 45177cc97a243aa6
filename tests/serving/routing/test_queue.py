from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.routing.policy.state import LaneKey, QueuedRequest
from serving.routing.queue import AGEING_S, DeadlineQueue

BOTH = LaneKey(("dense", "int8"))
SMALL = LaneKey(("int8",))
PATIENT = LaneKey(("dense",), has_deadline=False)


def add(
    queue: DeadlineQueue[Any],
    entry: Any,
    deadline: float = 10.0,
    *,
    key: LaneKey = BOTH,
    size: int = 1,
    priority: int = 10,
    now: float = 0.0,
) -> QueuedRequest[Any]:
    return queue.add(entry, key=key, size=size, deadline=deadline, priority=priority, now=now)


def entries(queue: DeadlineQueue[Any]) -> dict[LaneKey, list[Any]]:
    return {lane.key: [waiting.payload for waiting in lane.requests] for lane in queue.lanes}


def test_an_empty_queue_has_no_lanes() -> None:
    assert (len(DeadlineQueue[Any]()), DeadlineQueue[Any]().lanes) == (0, [])


def test_requests_of_one_key_wait_in_one_lane() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "a", key=BOTH)
    add(queue, "b", key=SMALL)
    add(queue, "c", key=LaneKey(("dense", "int8")))
    assert entries(queue) == {BOTH: ["a", "c"], SMALL: ["b"]}


def test_the_earliest_deadline_comes_first_then_the_priority_then_who_came_first() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "late", 3.0, priority=1)
    add(queue, "second", 2.0)
    add(queue, "third", 2.0)
    add(queue, "urgent", 2.0, priority=1)
    add(queue, "early", 1.0, priority=11)
    assert entries(queue)[BOTH] == ["early", "urgent", "second", "third", "late"]


def test_without_a_deadline_a_request_is_due_some_time_after_it_came() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "second", math.inf, key=PATIENT, now=5.0)
    add(queue, "first", math.inf, key=PATIENT, now=4.0)
    (lane,) = queue.lanes
    assert [waiting.order.due for waiting in lane.requests] == [4.0 + AGEING_S, 5.0 + AGEING_S]
    assert [waiting.deadline for waiting in lane.requests] == [math.inf, math.inf]


def test_what_is_taken_comes_in_order_and_an_emptied_lane_is_gone() -> None:
    queue = DeadlineQueue[Any]()
    for entry, deadline in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        add(queue, entry, deadline, size=2)
    (lane,) = queue.lanes
    assert [waiting.payload for waiting in queue.take(lane, 2)] == ["a", "b"]
    assert (len(queue), lane.samples) == (1, 2)
    assert [waiting.payload for waiting in queue.take(lane, 5)] == ["c"]
    assert (len(queue), queue.lanes) == (0, [])


def test_the_first_ones_of_a_lane_can_be_left_out() -> None:
    queue = DeadlineQueue[Any]()
    for entry in "abcd":
        add(queue, entry, size=2)
    assert [waiting.payload for waiting in queue.take(queue.lanes[0], 2, skip=1)] == ["b", "c"]
    assert entries(queue)[BOTH] == ["a", "d"]
    assert (len(queue), queue.lanes[0].samples) == (2, 4)


def test_what_is_put_back_gets_the_place_it_had() -> None:
    queue = DeadlineQueue[Any]()
    for entry in ("first", "second", "third"):
        add(queue, entry)
    taken = queue.take(queue.lanes[0], 2)
    add(queue, "fourth")
    for waiting in reversed(taken):
        queue.reinsert(waiting)
    assert entries(queue)[BOTH] == ["first", "second", "third", "fourth"]


def test_one_is_removed_from_among_its_equals() -> None:
    queue = DeadlineQueue[Any]()
    _, second, _ = (add(queue, entry) for entry in ("first", "second", "third"))
    add(queue, "other", key=SMALL)
    assert queue.remove(second)
    assert entries(queue) == {BOTH: ["first", "third"], SMALL: ["other"]}


def test_what_does_not_wait_is_not_removed() -> None:
    queue = DeadlineQueue[Any]()
    first, second = add(queue, "first"), add(queue, "second")
    assert queue.remove(first)
    assert not queue.remove(first), "its lane is there, it is not"
    assert queue.remove(second)
    assert not queue.remove(second), "nor is its lane"


@pytest.mark.parametrize(
    ("priority", "shed"),
    [
        pytest.param(1, "unimportant, due last", id="the lowest priority, and of those the last"),
        pytest.param(19, "unimportant, due last", id="just more important"),
        pytest.param(20, None, id="an equal is not shed"),
        pytest.param(21, None, id="nor one who is more important"),
    ],
)
def test_who_is_shed_for_a_request_of_this_priority(priority: int, shed: str | None) -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "important, due last", 9.0, priority=1)
    add(queue, "unimportant, due last", 8.0, priority=20, key=SMALL)
    add(queue, "unimportant, due first", 1.0, priority=20)
    add(queue, "ordinary", 10.0)
    found = queue.take_least_important(priority)
    assert (found and found.payload) == shed
    assert len(queue) == (4 if shed is None else 3)


@pytest.mark.parametrize(
    ("before", "variants", "shed"),
    [
        pytest.param(9.0, ["dense"], "late", id="the lowest priority"),
        pytest.param(8.0, ["dense"], "early", id="of those that are due before"),
        pytest.param(9.0, ["int8"], "elsewhere", id="and for which these variants will do"),
        pytest.param(0.5, ["dense"], None, id="nobody is due so early"),
        pytest.param(9.0, ["int4"], None, id="nobody wants that variant"),
    ],
)
def test_who_is_shed_of_those_in_the_way(
    before: float, variants: list[str], shed: str | None
) -> None:
    queue = DeadlineQueue[Any]()
    dense = LaneKey(("dense",))
    add(queue, "early", 2.0, priority=20, key=dense)
    add(queue, "late", 9.0, priority=30, key=dense)
    add(queue, "elsewhere", 3.0, priority=40, key=SMALL)
    found = queue.take_least_important(1, before=before, variants=variants)
    assert (found and found.payload) == shed
    assert len(queue) == (3 if shed is None else 2)


def test_an_empty_queue_sheds_nobody() -> None:
    assert DeadlineQueue[Any]().take_least_important(1) is None


def test_the_last_deadlines_are_those_of_each_lane() -> None:
    queue = DeadlineQueue[Any]()
    for deadline, key in ((3.0, BOTH), (9.0, BOTH), (5.0, SMALL), (math.inf, PATIENT)):
        add(queue, deadline, deadline, key=key)
    assert queue.last_deadlines() == [5.0, 9.0, math.inf]


@pytest.mark.parametrize(
    ("deadline", "variants", "expected"),
    [
        pytest.param(0.5, ["int8"], 0, id="nothing is due so early"),
        pytest.param(1.0, ["int8"], 2 / 2 + 5, id="due just then counts"),
        pytest.param(2.5, ["dense"], 2 * 2 / 2, id="only those that want the variant"),
        pytest.param(
            9.0, ["dense"], 2 * 3 / 2, id="half of a lane that another variant may serve, too"
        ),
        pytest.param(9.0, ["dense", "int8"], 2 * 3 + 5, id="a lane that wants both counts once"),
        pytest.param(9.0, ["int4"], 0, id="a variant nobody wants"),
    ],
)
def test_samples_before(deadline: float, variants: list[str], expected: float) -> None:
    queue = DeadlineQueue[Any]()
    for due in (1.0, 2.0, 3.0):
        add(queue, due, due, size=2)
    add(queue, "other", 1.0, size=5, key=SMALL)
    assert queue.samples_before(deadline, variants) == pytest.approx(expected)


sizes = st.integers(1, 64)
deadlines = st.floats(0, 100)
priorities = st.integers(1, 20)


class Queue(RuleBasedStateMachine):
    """Whatever is done to a queue, its books are right; a plain list says what they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = DeadlineQueue[Any]()
        self.expected: list[QueuedRequest[Any]] = []
        self.taken: list[QueuedRequest[Any]] = []
        self.now = 0.0

    @rule(key=st.sampled_from([BOTH, SMALL]), size=sizes, deadline=deadlines, priority=priorities)
    def add(self, key: LaneKey, size: int, deadline: float, priority: int) -> None:
        self._add(key, size, deadline, priority)

    @rule(size=sizes, priority=priorities, pause=st.floats(0, 2))
    def add_without_deadline(self, size: int, priority: int, pause: float) -> None:
        self.now += pause
        self._add(PATIENT, size, math.inf, priority)

    def _add(self, key: LaneKey, size: int, deadline: float, priority: int) -> None:
        entry = object()
        self.queue.add(
            entry, key=key, size=size, deadline=deadline, priority=priority, now=self.now
        )
        self.expected += [
            waiting
            for lane in self.queue.lanes
            for waiting in lane.requests
            if waiting.payload is entry
        ]

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), count=st.integers(1, 5), skip=st.integers(0, 2))
    def take(self, data: st.DataObject, count: int, skip: int) -> None:
        lane = data.draw(st.sampled_from(self.queue.lanes))
        skip = min(skip, len(lane.requests) - 1)
        first = lane.requests[skip : skip + count]
        taken = self.queue.take(lane, count, skip)
        assert taken == first
        self._gone(taken)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiting = data.draw(st.sampled_from(self.expected))
        assert self.queue.remove(waiting)
        self._gone([waiting])

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def remove_what_is_gone(self, data: st.DataObject) -> None:
        assert not self.queue.remove(data.draw(st.sampled_from(self.taken)))

    @precondition(lambda self: self.taken)
    @rule()
    def reinsert(self) -> None:
        waiting = self.taken.pop()
        self.queue.reinsert(waiting)
        self.expected.append(waiting)

    @rule(priority=priorities)
    def take_least_important(self, priority: int) -> None:
        shed = self.queue.take_least_important(priority)
        lower = [waiting for waiting in self.expected if waiting.order.priority > priority]
        if shed is None:
            assert not lower
            return
        worst = max((waiting.order.priority, waiting.order.due) for waiting in lower)
        assert (shed.order.priority, shed.order.due) == worst
        self._gone([shed])

    def _gone(self, taken: list[QueuedRequest[Any]]) -> None:
        self.taken += taken
        self.expected = [waiting for waiting in self.expected if waiting not in taken]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        found = [waiting for lane in self.queue.lanes for waiting in lane.requests]
        assert len(self.queue) == len(found) == len(self.expected)
        assert set(map(id, found)) == set(map(id, self.expected))

    @invariant()
    def lanes_are_whole(self) -> None:
        for lane in self.queue.lanes:
            orders = [waiting.order for waiting in lane.requests]
            assert orders, "no lane is empty"
            assert orders == sorted(orders)
            assert {waiting.key for waiting in lane.requests} == {lane.key}
            assert lane.samples == sum(waiting.size for waiting in lane.requests)


TestQueue = Queue.TestCase


@given(st.lists(st.tuples(deadlines, priorities), min_size=1), deadlines)
def test_samples_before_is_exact_where_all_are_of_one_size(
    requests: list[tuple[float, int]], deadline: float
) -> None:
    queue = DeadlineQueue[Any]()
    for due, priority in requests:
        add(queue, None, due, size=3, priority=priority)
    expected = 3 * sum(round(due, 3) <= round(deadline, 3) for due, _ in requests)
    assert queue.samples_before(deadline, ["dense", "int8"]) == pytest.approx(expected)
