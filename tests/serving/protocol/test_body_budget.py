"""The bytes that all requests of a gateway occupy together."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

import grpc
import pytest

from serving.dataplane.load_shedder import LoadShedder
from serving.errors import NotReady
from serving.protocol.body_budget import MIN_PROGRESS_BYTES, BodyBudget
from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.call import RETRY_AFTER
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER, Gate
from tests.serving.protocol.door import Door
from tests.serving.protocol.grpc.calls import call, call_error, infer_request, serving
from tests.serving.protocol.http.sockets import SMALL, RawClient, error_of, listening, post
from tests.waiting import until

LIMIT = 100_000


def door(limit: int = LIMIT) -> FrontDoor:
    return FrontDoor(LoadShedder(), lambda: None, bodies=BodyBudget(limit))


def begun(size: int, coding: str = "identity") -> bytes:
    """Return the head of an inference request with a body of this size."""
    lines = (f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {size}")
    return "\r\n".join([*lines, f"content-encoding: {coding}", "", ""]).encode()


async def test_a_body_that_exceeds_the_limit_for_all_is_rejected_and_others_are_not() -> None:
    front_door = door()
    async with listening(in_process(), front_door=front_door) as listener:
        holder, rejected, small = (RawClient(listener.port) for _ in range(3))
        await holder.send(begun(90_000) + bytes(80_000))
        await until(lambda: front_door.bodies.held == 80_000)
        await rejected.send(begun(99_000) + bytes(30_000))
        response = await rejected.read_until(b"}")
        assert b"\r\nretry-after: 1\r\n" in response
        assert "100000 bytes" in error_of(response, 503)
        assert front_door.bodies.held == 80_000
        await small.send(post(SMALL))
        assert (await small.read_until(b"deadline_met")).startswith(b"HTTP/1.1 200")
        holder.close()
        await until(lambda: front_door.bodies.held == 0)
        for raw in (rejected, small):
            raw.close()


async def test_a_body_that_exceeds_it_outside_the_front_door_gets_the_same_error() -> None:
    shut = Door(limit=8, inside=8)
    shut.door.bodies.limit = LIMIT
    shut.door.bodies.take(80_000)
    gateway = in_process()
    async with listening(gateway, front_door=shut.door) as listener:
        raw = RawClient(listener.port)
        await raw.send(begun(99_000) + bytes(30_000))
        response = await raw.read_until(b"}")
        assert b"\r\nretry-after: 1\r\n" in response
        assert "100000 bytes" in error_of(response, 503)
        raw.close()
    assert shut.refused == 0
    assert (shut.shedder.inside, shut.door.bodies.held) == (8, 80_000)
    labels = {"model": "shirts", "error": "NotReady"}
    assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 1


async def test_a_request_counts_until_it_is_answered() -> None:
    gate, front_door = Gate(), door()
    async with listening(in_process(gate), front_door=front_door) as listener:
        raw = RawClient(listener.port)
        await raw.send(post(SMALL))
        await gate.entered.wait()
        assert front_door.bodies.held == len(SMALL)
        gate.open.set()
        await raw.read_until(b"deadline_met")
        assert front_door.bodies.held == 0
        raw.close()


async def test_a_compressed_body_counts_as_what_it_unpacks_to() -> None:
    content = gzip.compress(bytes(LIMIT))
    async with listening(in_process(), front_door=door()) as listener:
        raw = RawClient(listener.port)
        await raw.send(begun(len(content), "gzip") + content)
        assert (await raw.read_until(b"}")).startswith(b"HTTP/1.1 503")
        raw.close()


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["closes", "resets"])
async def test_nothing_is_held_for_clients_that_have_left(
    leave: Callable[[RawClient], None],
) -> None:
    front_door = door()
    async with listening(in_process(), front_door=front_door) as listener:
        for message in (begun(500) + bytes(400), post(SMALL) + begun(500) + bytes(400)):
            raw = RawClient(listener.port)
            await raw.send(message)
            await until(lambda: front_door.bodies.held >= 400)
            leave(raw)
            await until(lambda: front_door.bodies.held == 0)


async def test_a_body_that_hardly_progresses_is_given_up_while_memory_is_scarce(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.body_budget.LOOK_S", 0.01)
    front_door = door()
    async with listening(in_process(), front_door=front_door) as listener:
        slow = RawClient(listener.port)
        await slow.send(begun(90_000) + bytes(40_000))
        await until(lambda: front_door.bodies.held == 40_000)
        await asyncio.sleep(0.05)
        assert front_door.bodies.held == 40_000, "there is room for others"
        await slow.send(bytes(20_000))
        assert "too slowly" in error_of(await slow.read(), 408)
        assert front_door.bodies.held == 0
        slow.close()


class Body:
    """A body that arrives; it is given up once."""

    def __init__(self, budget: BodyBudget, size: int, progress: int = 0) -> None:
        """At each look, `progress` more bytes have arrived."""
        self._arrived = 0
        self._progress = progress
        self.is_given_up = False
        self._budget, self._size = budget, size
        budget.take(size)

    @property
    def body_bytes(self) -> int:
        self._arrived += self._progress
        return self._arrived

    def give_up(self) -> None:
        self.is_given_up = True
        self._budget.free(self._size)
        self._budget.unwatch(self)


async def test_no_more_bodies_are_given_up_than_necessary_and_none_that_progresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.body_budget.LOOK_S", 0.01)
    budget = BodyBudget(100)
    fast, slow, spared = Body(budget, 40, MIN_PROGRESS_BYTES), Body(budget, 40), Body(budget, 5)
    for body in (fast, slow, spared):
        budget.watch(body)
    await until(lambda: slow.is_given_up)
    assert not fast.is_given_up
    assert not spared.is_given_up
    assert budget.held == 45


async def test_a_body_has_the_whole_interval_to_progress() -> None:
    budget = BodyBudget(100)
    slow = Body(budget, 40)
    budget.watch(slow)
    budget.take(20)
    budget._look()
    new = Body(budget, 40)
    budget.watch(new)
    budget._look()
    assert slow.is_given_up
    assert not new.is_given_up
    budget._look()
    assert new.is_given_up


async def test_slow_bodies_are_given_up_if_others_make_memory_scarce(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.body_budget.LOOK_S", 0.01)
    budget = BodyBudget(100)
    for _ in range(2):  # the second time after a while in which memory was not scarce
        slow = Body(budget, 40)
        budget.watch(slow)
        with budget.occupied(40):
            await until(lambda slow=slow: slow.is_given_up)  # type: ignore[misc]
        await until(lambda: budget._timer is None)


def test_nothing_is_counted_of_what_has_no_room() -> None:
    budget = BodyBudget(10)
    budget.take(10)
    with pytest.raises(NotReady, match="all requests together may occupy 10 bytes"):
        budget.take(1)
    budget.free(10)
    assert budget.held == 0


async def test_messages_of_grpc_count_too() -> None:
    gate, front_door = Gate(), door(70)
    message = infer_request()
    size = len(message.SerializeToString())
    assert size < 70 < 2 * size
    async with serving(in_process(gate), front_door=front_door) as channel:
        running = asyncio.create_task(call(channel, "ModelInfer", message))
        await gate.entered.wait()
        caught = await call_error(channel, "ModelInfer", message)
        assert caught.code() is grpc.StatusCode.UNAVAILABLE
        assert "no room for this one now" in caught.details()
        assert dict(caught.trailing_metadata())[RETRY_AFTER] == "1000"
        gate.open.set()
        await running
        await until(lambda: front_door.bodies.held == 0)
