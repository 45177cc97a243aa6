"""Calls and messages of streams that are refused before they are parsed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.front_door import REFUSAL
from serving.protocol.grpc.admission import Terms, read_terms
from serving.protocol.grpc.call import RETRY_AFTER
from serving.routing.slo import DEFAULT_PRIORITY
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.door import Door, shut
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    assert_answers,
    call,
    call_error,
    infer_request,
    serving,
)
from tests.serving.protocol.grpc.test_stream import open_stream, send
from tests.waiting import until

INVALID = b"\xff"
"""Not a message."""


@asynccontextmanager
async def behind(door: Door, **gateway: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to a gateway behind this door."""
    async with serving(in_process(**gateway), front_door=door.door) as channel:
        yield channel


def age(door: Door, monkeypatch: pytest.MonkeyPatch, age_s: float) -> None:
    """Let every request arrive this long before it is decided on."""
    monkeypatch.setattr(
        door.door.arrivals, "arrived_before", lambda iterations: time.monotonic() - age_s
    )


async def test_a_refusal_has_status_retry_pushback_and_a_message_that_helps() -> None:
    door = shut()
    async with behind(door) as channel:
        error = await call_error(channel, "ModelInfer", infer_request())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == REFUSAL
    assert dict(error.trailing_metadata()) == {RETRY_AFTER: "1000"}
    assert door.refused == 1
    assert door.shedder.inside == 8


@pytest.mark.parametrize(
    "message",
    [INVALID, b"x" * 900_000, infer_request(pixels(10_000)).SerializeToString()],
    ids=["invalid", "large and invalid", "large"],
)
async def test_a_refused_message_is_not_parsed(message: bytes) -> None:
    async with behind(shut()) as channel:
        for _ in range(3):
            error = await call_error(channel, "ModelInfer", message)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_connection_stays_open_and_its_calls_can_be_let_in_later() -> None:
    door = shut()
    async with behind(door) as channel:
        await call_error(channel, "ModelInfer", infer_request())
        door.open()
        response = await call(channel, "ModelInfer", infer_request())
    assert_answers(response, "dense", pixels())
    assert door.refused == 1


async def test_a_call_of_high_priority_and_other_rpcs_are_let_in() -> None:
    door = shut()
    metadata = (("x-slo-priority", "1"),)
    async with behind(door) as channel:
        await call(channel, "ServerReady", pb.ServerReadyRequest())
        response = await call(channel, "ModelInfer", infer_request(), metadata=metadata)
    assert_answers(response, "dense", pixels())
    assert door.refused == 0


async def test_the_deadline_in_the_metadata_decides_how_old_a_call_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(limit=8)
    age(door, monkeypatch, 0.4)
    async with behind(door) as channel:
        tight, loose = ((("x-slo-latency-ms", text),) for text in ("500", "50000"))
        error = await call_error(channel, "ModelInfer", infer_request(), metadata=tight)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await call(channel, "ModelInfer", infer_request(), metadata=loose)
        await call(channel, "ModelInfer", infer_request())
    assert door.refused == 1


@pytest.mark.parametrize(
    ("metadata", "terms"),
    [
        ((), Terms(DEFAULT_PRIORITY, None)),
        ((("x-slo-priority", "3"), ("x-slo-latency-ms", "50")), Terms(3, 0.05)),
        ((("x-slo-priority", "0"), ("x-slo-latency-ms", "nan")), Terms(DEFAULT_PRIORITY, None)),
        ((("x-slo-priority", "high"), ("a-bin", b"\xff")), Terms(DEFAULT_PRIORITY, None)),
    ],
)
def test_terms_are_those_of_the_metadata(metadata: Any, terms: Terms) -> None:
    assert read_terms(metadata) == terms


async def test_calls_are_counted_until_they_are_answered_or_cancelled() -> None:
    door = Door(limit=8)
    async with behind(door, run=(gate := Gate())) as channel:
        calls = [
            asyncio.create_task(call(channel, "ModelInfer", infer_request())) for _ in range(3)
        ]
        await until(lambda: door.shedder.inside == 3)
        calls[0].cancel()
        await until(lambda: door.shedder.inside == 2)
        gate.open.set()
        await asyncio.gather(*calls[1:])
        await until(lambda: door.shedder.inside == 0)
        await call_error(channel, "ModelInfer", INVALID)
        assert door.shedder.inside == 0


async def test_a_held_refusal_is_forgotten_if_its_client_cancels_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = shut()
    door.hold()
    async with behind(door) as channel:
        calls = [
            asyncio.create_task(call(channel, "ModelInfer", infer_request())) for _ in range(20)
        ]
        await until(lambda: door.refused == len(calls))
        await call(channel, "ServerReady", pb.ServerReadyRequest())  # a round trip
        assert not any(each.done() for each in calls)
        assert door.shedder.inside == 8
        for each in calls:
            each.cancel()
        await asyncio.wait(calls)
        await until(lambda: not held())
    assert not caplog.records


def held() -> list[str]:
    """Return the handlers of the refused calls that have no response yet."""
    return [name for task in asyncio.all_tasks() if "HandleExceptions" in (name := task.get_name())]


async def test_a_held_refusal_is_sent_in_the_end() -> None:
    door = shut()
    door.hold(0.01)
    async with behind(door) as channel:
        error = await call_error(channel, "ModelInfer", infer_request())
        stream = open_stream(channel)
        await send(stream, infer_request())
        assert (await read(stream)).error_message == error.details() == REFUSAL
        stream.cancel()


async def read(stream: Any) -> Any:
    return await asyncio.wait_for(stream.read(), HANG_S)


async def test_a_refused_message_of_a_stream_gets_an_error_and_the_stream_continues() -> None:
    door = shut()
    async with behind(door) as channel:
        stream = open_stream(channel)
        for message in (infer_request(), INVALID):
            await send(stream, message)
            assert (await read(stream)).error_message == REFUSAL
        door.open()
        await send(stream, infer_request())
        assert_answers((await read(stream)).infer_response, "dense", pixels())
        await stream.done_writing()
        assert await read(stream) is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
    assert door.refused == 2
    assert door.shedder.inside == 0


async def test_the_messages_of_a_stream_have_the_priority_of_its_metadata() -> None:
    door = shut()
    async with behind(door) as channel:
        stream = open_stream(channel, metadata=(("x-slo-priority", "1"),))
        await send(stream, infer_request())
        assert_answers((await read(stream)).infer_response, "dense", pixels())
        stream.cancel()


async def test_messages_of_a_stream_are_counted_until_they_are_answered() -> None:
    door = Door(limit=8)
    async with behind(door, run=(gate := Gate())) as channel:
        streams = [open_stream(channel) for _ in range(2)]
        for stream in streams:
            await send(stream, infer_request(), infer_request())
        await until(lambda: door.shedder.inside == 4)
        streams[0].cancel()
        await until(lambda: door.shedder.inside == 2)
        gate.open.set()
        for _ in range(2):
            await read(streams[1])
        assert door.shedder.inside == 0
        streams[1].cancel()


async def test_a_held_refusal_in_a_stream_is_sent_when_the_next_message_is_read() -> None:
    door = shut()
    door.hold()
    async with behind(door) as channel:
        stream = open_stream(channel)
        first = asyncio.create_task(read(stream))
        await send(stream, infer_request())
        await until(lambda: door.refused == 1)
        await call(channel, "ServerReady", pb.ServerReadyRequest())  # a round trip
        assert not first.done()
        door.open()
        await send(stream, infer_request())
        assert (await first).error_message == REFUSAL
        assert_answers((await read(stream)).infer_response, "dense", pixels())
        stream.cancel()
