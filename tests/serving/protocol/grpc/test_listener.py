from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import uvloop
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.grpc.listener import MIN_PING_INTERVAL_MS, GrpcListener
from serving.protocol.http.listener import HttpListener
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    LIMIT,
    LOOPBACK,
    assert_answers,
    call,
    call_error,
    infer_request,
    listening,
    open_channel,
    protocol,
)
from tests.waiting import until


async def is_answered(port: int) -> bool:
    """Return whether a call over a new connection gets a response."""
    async with open_channel(port) as channel:
        return bool((await call(channel, "ServerLive", pb.ServerLiveRequest())).live)


async def test_a_listener_is_alive_from_start_to_close() -> None:
    listener = GrpcListener(protocol(in_process()), LOOPBACK, 0, max_message_bytes=LIMIT)
    assert not listener.is_alive
    await listener.start()
    assert listener.is_alive
    assert await is_answered(listener.port)
    await listener.close()
    assert not listener.is_alive
    with socket.create_server((LOOPBACK, listener.port)):
        pass


async def test_close_frees_the_port_even_before_the_start() -> None:
    listener = GrpcListener(protocol(in_process()), LOOPBACK, 0, max_message_bytes=LIMIT)
    await listener.close()
    with socket.create_server((LOOPBACK, listener.port)):
        pass


async def test_a_port_that_another_program_uses_raises() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            GrpcListener(protocol(in_process()), LOOPBACK, port, max_message_bytes=LIMIT)


async def test_a_port_that_another_program_takes_before_the_start_raises() -> None:
    listener = GrpcListener(protocol(in_process()), LOOPBACK, 0, max_message_bytes=LIMIT)
    with (
        socket.create_server((LOOPBACK, listener.port)),
        pytest.raises(OSError, match="another program uses the port"),
    ):
        await listener.start()
    assert not listener.is_alive
    await listener.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_a_listener_can_use_ipv6() -> None:
    listener = GrpcListener(protocol(in_process()), "::1", 0, max_message_bytes=LIMIT)
    await listener.start()
    async with grpc.aio.insecure_channel(f"[::1]:{listener.port}") as channel:
        assert (await call(channel, "ServerLive", pb.ServerLiveRequest())).live
    await listener.close()


async def test_two_listeners_share_a_port() -> None:
    first, second = in_process(), in_process()
    first.dataplane.readiness.is_draining = True
    async with (
        listening(protocol(first)) as one,
        listening(protocol(second), one.port) as other,
    ):
        assert one.port == other.port
        states: set[bool] = set()
        # The kernel chooses a listener at random: one of the two is missed with probability 2^-63.
        for _ in range(64):
            async with open_channel(one.port) as channel:
                states.add((await call(channel, "ServerReady", pb.ServerReadyRequest())).ready)
            if len(states) == 2:
                break
    assert states == {True, False}


async def test_when_one_of_two_listeners_closes_the_other_gets_every_connection() -> None:
    async with listening(protocol(in_process())) as one:
        async with listening(protocol(in_process()), one.port):
            pass
        for _ in range(20):
            assert await is_answered(one.port)


async def test_after_stop_accepting_open_calls_continue_and_the_data_plane_rejects_new_ones() -> (
    None
):
    gate = Gate()
    gateway = in_process(gate)
    async with (
        listening(protocol(gateway)) as listener,
        open_channel(listener.port) as channel,
        open_channel(listener.port) as other,
    ):
        running = asyncio.create_task(call(channel, "ModelInfer", infer_request()))
        await gate.entered.wait()
        listener.stop_accepting()
        gateway.dataplane.readiness.is_draining = True
        assert listener.is_alive
        for each in (channel, other):  # only the first has a connection already
            error = await call_error(each, "ModelInfer", infer_request())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == ("the service is stopping; try again in a few seconds")
        gate.open.set()
        assert_answers(await running, "dense", pixels())


async def test_close_waits_for_open_calls_and_then_frees_the_port() -> None:
    gate = Gate()
    async with (
        listening(protocol(in_process(gate))) as listener,
        open_channel(listener.port) as channel,
    ):
        running = asyncio.create_task(call(channel, "ModelInfer", infer_request()))
        await gate.entered.wait()
        closing = asyncio.create_task(listener.close(HANG_S))
        done, _ = await asyncio.wait([running, closing], timeout=0.1)
        assert not done, "close waits for the call, which continues"
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await closing
        assert not listener.is_alive
        error = await call_error(channel, "ServerLive", pb.ServerLiveRequest())
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_calls_during_the_delay_of_close_get_an_error() -> None:
    # Without the delay, grpc would cancel calls that arrive while the server stops.
    gateway = in_process()
    listener = GrpcListener(
        protocol(gateway), LOOPBACK, 0, max_message_bytes=LIMIT, close_delay_s=HANG_S
    )
    await listener.start()
    async with open_channel(listener.port) as channel:
        assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())
        gateway.dataplane.readiness.is_draining = True
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        errors = await asyncio.gather(
            *(call_error(channel, "ModelInfer", infer_request()) for _ in range(100))
        )
        assert not closing.done()
        assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
        assert {error.details() for error in errors} == {
            "the service is stopping; try again in a few seconds"
        }
        closing.cancel()
        await asyncio.wait([closing])
        listener._close_delay_s = 0.0
        await listener.close()


async def test_close_cuts_calls_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with listening(protocol(gateway)) as listener, open_channel(listener.port) as channel:
        running = asyncio.create_task(call_error(channel, "ModelInfer", infer_request()))
        await gate.entered.wait()
        await listener.close(0.05)
        error = await running
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        gate.open.set()
        await until(lambda: gateway.scheduler.is_idle)
    assert "Traceback" not in caplog.text


async def test_a_listener_installs_no_signal_handlers() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with listening(protocol(in_process())):
        during = {number: signal.getsignal(number) for number in before}
    assert during == before


def test_both_listeners_work_in_one_event_loop_of_uvloop() -> None:
    async def main() -> None:
        gateway = in_process()
        http = HttpListener(gateway.protocol, LOOPBACK, 0)
        await http.start()
        async with listening(protocol(gateway)) as listener, open_channel(listener.port) as channel:
            assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())
            reader, writer = await asyncio.open_connection(LOOPBACK, http.port)
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await http.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


PING, GO_AWAY = 6, 7
"""Types of HTTP/2 frames."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind]) + bytes(5) + payload


@asynccontextmanager
async def http2_connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open an HTTP/2 connection without a call."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4))
    try:
        async with asyncio.timeout(HANG_S):
            yield reader, writer
    finally:
        writer.close()


async def next_frame(reader: asyncio.StreamReader, *kinds: int) -> int:
    """Return the type of the next frame that has one of these types."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] in kinds:
            return head[3]


async def test_keep_alive_pings_are_answered() -> None:
    async with (
        listening(protocol(in_process())) as listener,
        http2_connection(listener.port) as (reader, writer),
    ):
        for i in range(6):
            writer.write(frame(PING, i.to_bytes(8)))
            assert await next_frame(reader, PING, GO_AWAY) == PING
            await asyncio.sleep(1.5 * MIN_PING_INTERVAL_MS / 1e3)


async def test_a_client_that_sends_too_many_pings_is_disconnected() -> None:
    async with (
        listening(protocol(in_process())) as listener,
        http2_connection(listener.port) as (reader, writer),
    ):
        writer.write(b"".join(frame(PING, i.to_bytes(8)) for i in range(20)))
        assert await next_frame(reader, GO_AWAY) == GO_AWAY
