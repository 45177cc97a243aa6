"""Clients that keep a listener waiting, and how long it waits."""

from __future__ import annotations

import asyncio

import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body
from tests.serving.protocol.http.sockets import (
    SMALL,
    Named,
    Receive,
    Send,
    Wire,
    assert_error,
    client,
    listening,
    post,
    send_for_ever,
    whole_bodies_only,
)


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"GET /v2 HTTP/1.1\r\nhost", id="in its headers"),
        pytest.param(
            b"POST " + INFER.encode() + b" HTTP/1.1\r\ncontent-length: 5\r\n\r\n{",
            id="in its body",
        ),
    ],
)
async def test_a_request_that_stops_arriving_is_given_up_and_a_slow_answer_is_not(
    begun: bytes,
) -> None:
    gate = Gate()
    app = in_process(gate).protocol
    async with (
        listening(app, read_timeout_s=0.2) as listener,
        client(listener.port) as own,
    ):
        running = asyncio.create_task(own.post(INFER, json=body()))
        await gate.entered.wait()
        idle = Wire(listener.port)
        await idle.send(b"GET /v2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await idle.read_until(b"extensions")
        await idle.send(b"0\r\n\r\n")
        stops = Wire(listener.port)
        await stops.send(begun)
        assert "0.2 s" in assert_error(await stops.read(), 408)
        assert not running.done()
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await idle.send(b"GET /v2 HTTP/1.1\r\n\r\n")
        await idle.read_until(b"extensions")
        for wire in (idle, stops):
            wire.close()


async def test_a_request_that_stops_arriving_after_its_answer_gets_no_other() -> None:
    app = in_process(max_body_bytes=10).protocol
    async with listening(app, read_timeout_s=0.2) as listener:
        wire = Wire(listener.port)
        await wire.send(f"POST {INFER} HTTP/1.1\r\ncontent-length: 50\r\n\r\n{{".encode())
        received = await wire.read()
        assert received.startswith(b"HTTP/1.1 413")
        assert received.count(b"HTTP/1.1") == 1
        wire.close()


async def test_a_client_that_is_not_listened_to_has_not_stopped() -> None:
    gate = asyncio.Event()

    async def does_something_else_first(scope: object, receive: Receive, send: Send) -> None:
        await gate.wait()
        await whole_bodies_only(scope, receive, send)

    async with listening(does_something_else_first, read_timeout_s=0.2) as listener:
        goes_on, stops = Wire(listener.port), Wire(listener.port)
        large = post(b" " * 200_000)
        await goes_on.send(large[:-5])  # so much is kept for later that reading pauses
        await stops.send(large[:5])
        await stops.read()
        gate.set()
        await goes_on.send(large[-5:])
        await goes_on.read_until(b"taken")
        for wire in (goes_on, stops):
            wire.close()


async def test_a_request_that_stops_arriving_does_not_cost_the_one_before_its_answer() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol, read_timeout_s=0.2) as listener:
        wire = Wire(listener.port)
        await wire.send(post(SMALL) + b"GET /v2")
        await gate.entered.wait()
        for _ in range(2):
            stops = Wire(listener.port)
            await stops.send(b"GET /v2")
            assert_error(await stops.read(), 408)
            stops.close()
        gate.open.set()
        first, start, second = (await wire.read()).partition(b"HTTP/1.1 408")
        wire.close()
        assert first.startswith(b"HTTP/1.1 200")
        assert_error(start + second, 408)


QUICK_S = 0.5


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="that says nothing"),
        pytest.param([b"GET / HTTP/1.1\r\n\r\n"], id="that got its answer"),
        pytest.param(
            [b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n", b"re", b"st"],
            id="that got its answer before it had sent its body",
        ),
        pytest.param([b"\r\nGET / HTTP/1.1\r\n\r\n", b"\r\n"], id="that sends an empty line more"),
    ],
)
async def test_a_connection_on_which_no_request_begins_is_closed(
    messages: list[bytes],
) -> None:
    # The silence is no longer than this wait: whoever is taken for silent would hear so.
    app = Named(b"taken")
    async with listening(app, keep_alive_s=QUICK_S, read_timeout_s=QUICK_S / 2) as listener:
        wire = Wire(listener.port)
        for number, message in enumerate(messages):
            await wire.send(message)
            if number == 0:
                await wire.read_until(b"taken")
            await asyncio.sleep(0.001)  # so that they are most likely read one by one
        assert await wire.read() == b""
        wire.close()


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async with listening(Named(b"taken"), keep_alive_s=QUICK_S) as listener:
        wire = Wire(listener.port)
        with pytest.raises(ConnectionError):
            await send_for_ever(wire, b"\r\n")
        wire.close()


async def test_a_connection_on_which_a_request_began_is_not_closed() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol, keep_alive_s=QUICK_S) as listener:
        waits, begins, idle = (Wire(listener.port) for _ in range(3))
        await waits.send(post(SMALL))
        await begins.send(post(SMALL)[:20])
        await gate.entered.wait()
        assert await idle.read() == b""
        gate.open.set()
        await begins.send(post(SMALL)[20:])
        for wire in (waits, begins):
            assert (await wire.read_until(b'"model_name"')).startswith(b"HTTP/1.1 200")
        for wire in (waits, begins, idle):
            wire.close()
