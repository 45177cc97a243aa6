"""Read time-outs and keep-alive time-outs of connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body
from tests.serving.protocol.http.sockets import (
    SMALL,
    RawClient,
    Receive,
    Send,
    StaticApp,
    error_of,
    http_client,
    listening,
    post,
    read_then_respond,
    send_until_error,
)


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"GET /v2 HTTP/1.1\r\nhost: x\r\nhost", id="within its headers"),
        pytest.param(
            b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{",
            id="within its body",
        ),
    ],
)
async def test_an_incomplete_request_times_out_and_a_slow_response_does_not(
    begun: bytes,
) -> None:
    gate = Gate()
    app = in_process(gate)
    async with (
        listening(app, read_timeout_s=0.2) as listener,
        http_client(listener.port) as client,
    ):
        running = asyncio.create_task(client.post(INFER, json=body()))
        await gate.entered.wait()
        idle = RawClient(listener.port)
        await idle.send(b"GET /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
        await idle.read_until(b"extensions")
        await idle.send(b"x")
        stalled = RawClient(listener.port)
        await stalled.send(begun)
        assert "0.2 s" in error_of(await stalled.read(), 408)
        assert not running.done()
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await idle.send(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        await idle.read_until(b"extensions")
        for raw in (idle, stalled):
            raw.close()


async def test_an_incomplete_request_gets_no_second_response() -> None:
    app = in_process(max_body_bytes=10)
    async with listening(app, read_timeout_s=0.2) as listener:
        raw = RawClient(listener.port)
        await raw.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{".encode())
        received = await raw.read()
        assert received.startswith(b"HTTP/1.1 413")
        assert received.count(b"HTTP/1.1") == 1
        raw.close()


async def test_a_client_whose_connection_is_not_read_does_not_time_out() -> None:
    gate = asyncio.Event()

    async def wait_then_read(scope: object, receive: Receive, send: Send) -> None:
        await gate.wait()
        await read_then_respond(scope, receive, send)

    async with listening(wait_then_read, read_timeout_s=0.2) as listener:
        paused, stalled = RawClient(listener.port), RawClient(listener.port)
        large = post(b" " * 200_000)
        await paused.send(large[:-5])  # more than uvicorn buffers, so that it pauses reading
        await stalled.send(large[:5])
        await stalled.read()
        gate.set()
        await paused.send(large[-5:])
        await paused.read_until(b"done")
        for raw in (paused, stalled):
            raw.close()


async def test_a_time_out_does_not_affect_an_earlier_pipelined_request() -> None:
    gate = Gate()
    async with listening(in_process(gate), read_timeout_s=0.2) as listener:
        raw = RawClient(listener.port)
        await raw.send(post(SMALL) + b"GET /v2")
        await gate.entered.wait()
        for _ in range(2):
            stalled = RawClient(listener.port)
            await stalled.send(b"GET /v2")
            error_of(await stalled.read(), 408)
            stalled.close()
        gate.open.set()
        first, start, second = (await raw.read()).partition(b"HTTP/1.1 408")
        raw.close()
        assert first.startswith(b"HTTP/1.1 200")
        error_of(start + second, 408)


KEEP_ALIVE_S = 0.5
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="no request"),
        pytest.param([b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"], id="an answered request"),
        pytest.param(
            [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n", b"re", b"st"],
            id="a request answered before its body arrived",
        ),
        pytest.param(
            [b"\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"], id="empty lines around a request"
        ),
    ],
)
async def test_an_idle_connection_is_closed(
    messages: list[bytes],
) -> None:
    # The read time-out is shorter: if it applied to these connections, they would get an error.
    app = StaticApp(b"done")
    async with listening(
        app, keep_alive_s=KEEP_ALIVE_S, read_timeout_s=KEEP_ALIVE_S / 2
    ) as listener:
        raw = RawClient(listener.port)
        for number, message in enumerate(messages):
            await raw.send(message)
            if number == 0:
                await raw.read_until(b"done")
            await asyncio.sleep(0.001)  # so that the messages are most likely read one by one
        assert await raw.read() == b""
        raw.close()


async def test_empty_lines_do_not_keep_a_connection_open() -> None:
    async with listening(StaticApp(b"done"), keep_alive_s=KEEP_ALIVE_S) as listener:
        raw = RawClient(listener.port)
        with pytest.raises(ConnectionError):
            await send_until_error(raw, b"\r\n")
        raw.close()


async def test_a_connection_with_a_request_is_not_closed() -> None:
    gate = Gate()
    async with listening(in_process(gate), keep_alive_s=KEEP_ALIVE_S) as listener:
        queued, begun, idle = (RawClient(listener.port) for _ in range(3))
        await queued.send(post(SMALL))
        await begun.send(post(SMALL)[:20])
        await gate.entered.wait()
        assert await idle.read() == b""
        gate.open.set()
        await begun.send(post(SMALL)[20:])
        for raw in (queued, begun):
            assert (await raw.read_until(b'"model_name"')).startswith(b"HTTP/1.1 200")
        for raw in (queued, begun, idle):
            raw.close()


@pytest.mark.parametrize("begun", [0, 5], ids=["idle", "within a request"])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_request_that_came_while_the_loop_was_busy_is_answered(
    new_loop: Callable[[], asyncio.AbstractEventLoop], begun: int
) -> None:
    async def answer_while_busy(limit_s: float) -> bytes:
        """Return the response to a request that arrives while the time limit is exceeded."""
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()

        def stay_busy() -> None:
            loop.remove_reader(near)
            raw.send_now(GET[begun:])
            time.sleep(2 * limit_s)

        async with listening(
            StaticApp(b"done"), keep_alive_s=limit_s, read_timeout_s=limit_s
        ) as listener:
            raw = RawClient(listener.port)
            raw.send_now(GET)
            await raw.read_until(b"done")
            raw.send_now(GET[:begun])
            await asyncio.sleep(0.01)  # so that the beginning is most likely read
            loop.add_reader(near, stay_busy)
            far.send(b"x")
            response = await raw.read_until(b"done")
            if begun:  # the time limit holds for the next request too
                raw.send_now(GET[:begun])
                error_of(await raw.read(), 408)
            for each in (raw, near, far):
                each.close()
        return response

    def is_answered(limit_s: float) -> bool:
        with asyncio.Runner(loop_factory=new_loop) as runner, contextlib.suppress(AssertionError):
            return b"200 OK" in runner.run(answer_while_busy(limit_s))
        return False

    # A busy machine may stop this process for longer than the limit.
    assert any(map(is_answered, (KEEP_ALIVE_S, 5.0)))
