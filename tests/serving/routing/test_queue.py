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
INT8_ONLY = LaneKey(("int8",))
NO_DEADLINE = LaneKey(("dense",), has_deadline=False)


def add(
    queue: DeadlineQueue[Any],
    payload: Any,
    deadline: float = 10.0,
    *,
    key: LaneKey = BOTH,
    size: int = 1,
    priority: int = 10,
    now: float = 0.0,
) -> QueuedRequest[Any]:
    return queue.add(payload, key=key, size=size, deadline=deadline, priority=priority, now=now)


def payloads(queue: DeadlineQueue[Any]) -> dict[LaneKey, list[Any]]:
    return {lane.key: [request.payload for request in lane.requests] for lane in queue.lanes}


def test_an_empty_queue_has_no_lanes() -> None:
    assert (len(DeadlineQueue[Any]()), DeadlineQueue[Any]().lanes) == (0, [])


def test_requests_with_equal_keys_share_a_lane() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "a", key=BOTH)
    add(queue, "b", key=INT8_ONLY)
    add(queue, "c", key=LaneKey(("dense", "int8")))
    assert payloads(queue) == {BOTH: ["a", "c"], INT8_ONLY: ["b"]}


def test_the_order_is_by_deadline_then_priority_then_arrival() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "late", 3.0, priority=1)
    add(queue, "second", 2.0)
    add(queue, "third", 2.0)
    add(queue, "urgent", 2.0, priority=1)
    add(queue, "early", 1.0, priority=11)
    assert payloads(queue)[BOTH] == ["early", "urgent", "second", "third", "late"]


def test_a_request_without_a_deadline_becomes_due_some_time_after_its_arrival() -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "second", math.inf, key=NO_DEADLINE, now=5.0)
    add(queue, "first", math.inf, key=NO_DEADLINE, now=4.0)
    (lane,) = queue.lanes
    assert [request.order.due for request in lane.requests] == [4.0 + AGEING_S, 5.0 + AGEING_S]
    assert [request.deadline for request in lane.requests] == [math.inf, math.inf]


def test_requests_are_taken_in_order_and_an_empty_lane_is_removed() -> None:
    queue = DeadlineQueue[Any]()
    for payload, deadline in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        add(queue, payload, deadline, size=2)
    (lane,) = queue.lanes
    assert [request.payload for request in queue.take(lane, 2)] == ["a", "b"]
    assert (len(queue), lane.samples) == (1, 2)
    assert [request.payload for request in queue.take(lane, 5)] == ["c"]
    assert (len(queue), queue.lanes) == (0, [])


def test_the_first_requests_of_a_lane_can_be_skipped() -> None:
    queue = DeadlineQueue[Any]()
    for payload in "abcd":
        add(queue, payload, size=2)
    assert [request.payload for request in queue.take(queue.lanes[0], 2, skip=1)] == ["b", "c"]
    assert payloads(queue)[BOTH] == ["a", "d"]
    assert (len(queue), queue.lanes[0].samples) == (2, 4)


def test_a_reinserted_request_gets_its_former_position() -> None:
    queue = DeadlineQueue[Any]()
    for payload in ("first", "second", "third"):
        add(queue, payload)
    taken = queue.take(queue.lanes[0], 2)
    add(queue, "fourth")
    for request in reversed(taken):
        queue.reinsert(request)
    assert payloads(queue)[BOTH] == ["first", "second", "third", "fourth"]


def test_one_of_several_equal_requests_can_be_removed() -> None:
    queue = DeadlineQueue[Any]()
    _, second, _ = (add(queue, payload) for payload in ("first", "second", "third"))
    add(queue, "other", key=INT8_ONLY)
    assert queue.remove(second)
    assert payloads(queue) == {BOTH: ["first", "third"], INT8_ONLY: ["other"]}


def test_a_request_that_is_not_queued_cannot_be_removed() -> None:
    queue = DeadlineQueue[Any]()
    first, second = add(queue, "first"), add(queue, "second")
    assert queue.remove(first)
    assert not queue.remove(first), "the lane exists, but the request is not in it"
    assert queue.remove(second)
    assert not queue.remove(second), "the lane does not exist"


@pytest.mark.parametrize(
    ("priority", "shed"),
    [
        pytest.param(1, "unimportant, due last", id="the lowest priority, due last"),
        pytest.param(19, "unimportant, due last", id="just more important"),
        pytest.param(20, None, id="an equal priority is not shed"),
        pytest.param(21, None, id="a higher priority is not shed"),
    ],
)
def test_the_request_to_shed_depends_on_the_priority(priority: int, shed: str | None) -> None:
    queue = DeadlineQueue[Any]()
    add(queue, "important, due last", 9.0, priority=1)
    add(queue, "unimportant, due last", 8.0, priority=20, key=INT8_ONLY)
    add(queue, "unimportant, due first", 1.0, priority=20)
    add(queue, "ordinary", 10.0)
    request = queue.take_least_important(priority)
    assert (request and request.payload) == shed
    assert len(queue) == (4 if shed is None else 3)


@pytest.mark.parametrize(
    ("before", "variants", "shed"),
    [
        pytest.param(9.0, ["dense"], "late", id="the lowest priority"),
        pytest.param(8.0, ["dense"], "early", id="only requests that are due before"),
        pytest.param(
            9.0, ["int8"], "elsewhere", id="only requests for which these variants qualify"
        ),
        pytest.param(0.5, ["dense"], None, id="no request is due so early"),
        pytest.param(9.0, ["int4"], None, id="the variant qualifies for no request"),
    ],
)
def test_only_competing_requests_are_shed(
    before: float, variants: list[str], shed: str | None
) -> None:
    queue = DeadlineQueue[Any]()
    dense = LaneKey(("dense",))
    add(queue, "early", 2.0, priority=20, key=dense)
    add(queue, "late", 9.0, priority=30, key=dense)
    add(queue, "elsewhere", 3.0, priority=40, key=INT8_ONLY)
    request = queue.take_least_important(1, before=before, variants=variants)
    assert (request and request.payload) == shed
    assert len(queue) == (3 if shed is None else 2)


def test_an_empty_queue_has_no_request_to_shed() -> None:
    assert DeadlineQueue[Any]().take_least_important(1) is None


def test_last_deadlines_has_the_last_deadline_of_each_lane() -> None:
    queue = DeadlineQueue[Any]()
    for deadline, key in ((3.0, BOTH), (9.0, BOTH), (5.0, INT8_ONLY), (math.inf, NO_DEADLINE)):
        add(queue, deadline, deadline, key=key)
    assert queue.last_deadlines() == [5.0, 9.0, math.inf]


@pytest.mark.parametrize(
    ("deadline", "variants", "expected"),
    [
        pytest.param(0.5, ["int8"], 0, id="no request is due so early"),
        pytest.param(1.0, ["int8"], 2 / 2 + 5, id="a deadline exactly at the limit counts"),
        pytest.param(2.5, ["dense"], 2 * 2 / 2, id="only lanes for which the variant qualifies"),
        pytest.param(9.0, ["dense"], 2 * 3 / 2, id="half of a lane that another variant can serve"),
        pytest.param(9.0, ["dense", "int8"], 2 * 3 + 5, id="a lane with both variants counts once"),
        pytest.param(9.0, ["int4"], 0, id="a variant that qualifies for no lane"),
    ],
)
def test_samples_before(deadline: float, variants: list[str], expected: float) -> None:
    queue = DeadlineQueue[Any]()
    for due in (1.0, 2.0, 3.0):
        add(queue, due, due, size=2)
    add(queue, "other", 1.0, size=5, key=INT8_ONLY)
    assert queue.samples_before(deadline, variants) == pytest.approx(expected)


sizes = st.integers(1, 64)
deadlines = st.floats(0, 100)
priorities = st.integers(1, 20)


class QueueMachine(RuleBasedStateMachine):
    """Random operations on a queue, compared with a plain list of the expected requests."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = DeadlineQueue[Any]()
        self.expected: list[QueuedRequest[Any]] = []
        self.taken: list[QueuedRequest[Any]] = []
        self.now = 0.0

    @rule(
        key=st.sampled_from([BOTH, INT8_ONLY]), size=sizes, deadline=deadlines, priority=priorities
    )
    def add(self, key: LaneKey, size: int, deadline: float, priority: int) -> None:
        self._add(key, size, deadline, priority)

    @rule(size=sizes, priority=priorities, pause=st.floats(0, 2))
    def add_without_deadline(self, size: int, priority: int, pause: float) -> None:
        self.now += pause
        self._add(NO_DEADLINE, size, math.inf, priority)

    def _add(self, key: LaneKey, size: int, deadline: float, priority: int) -> None:
        payload = object()
        self.queue.add(
            payload, key=key, size=size, deadline=deadline, priority=priority, now=self.now
        )
        self.expected += [
            request
            for lane in self.queue.lanes
            for request in lane.requests
            if request.payload is payload
        ]

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), count=st.integers(1, 5), skip=st.integers(0, 2))
    def take(self, data: st.DataObject, count: int, skip: int) -> None:
        lane = data.draw(st.sampled_from(self.queue.lanes))
        skip = min(skip, len(lane.requests) - 1)
        first = lane.requests[skip : skip + count]
        taken = self.queue.take(lane, count, skip)
        assert taken == first
        self._record_removed(taken)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.expected))
        assert self.queue.remove(request)
        self._record_removed([request])

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def remove_again(self, data: st.DataObject) -> None:
        assert not self.queue.remove(data.draw(st.sampled_from(self.taken)))

    @precondition(lambda self: self.taken)
    @rule()
    def reinsert(self) -> None:
        request = self.taken.pop()
        self.queue.reinsert(request)
        self.expected.append(request)

    @rule(priority=priorities)
    def take_least_important(self, priority: int) -> None:
        shed = self.queue.take_least_important(priority)
        lower = [request for request in self.expected if request.order.priority > priority]
        if shed is None:
            assert not lower
            return
        worst = max((request.order.priority, request.order.due) for request in lower)
        assert (shed.order.priority, shed.order.due) == worst
        self._record_removed([shed])

    def _record_removed(self, taken: list[QueuedRequest[Any]]) -> None:
        self.taken += taken
        self.expected = [request for request in self.expected if request not in taken]

    @invariant()
    def no_request_is_lost_or_duplicated(self) -> None:
        queued = [request for lane in self.queue.lanes for request in lane.requests]
        assert len(self.queue) == len(queued) == len(self.expected)
        assert set(map(id, queued)) == set(map(id, self.expected))

    @invariant()
    def lanes_are_consistent(self) -> None:
        for lane in self.queue.lanes:
            orders = [request.order for request in lane.requests]
            assert orders, "no lane is empty"
            assert orders == sorted(orders)
            assert {request.key for request in lane.requests} == {lane.key}
            assert lane.samples == sum(request.size for request in lane.requests)
        assert self.queue.samples == sum(lane.samples for lane in self.queue.lanes)


TestQueue = QueueMachine.TestCase


@given(st.lists(st.tuples(deadlines, priorities), min_size=1), deadlines)
def test_samples_before_is_exact_if_all_requests_have_one_size(
    requests: list[tuple[float, int]], deadline: float
) -> None:
    queue = DeadlineQueue[Any]()
    for due, priority in requests:
        add(queue, None, due, size=3, priority=priority)
    expected = 3 * sum(round(due, 3) <= round(deadline, 3) for due, _ in requests)
    assert queue.samples_before(deadline, ["dense", "int8"]) == pytest.approx(expected)
