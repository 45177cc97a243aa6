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

from serving.protocol.grpc.listener import CLOSE_DELAY_S, MIN_PING_INTERVAL_MS, GrpcListener
from serving.protocol.http.listener import HttpListener
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    LIMIT,
    LOOPBACK,
    assert_answers,
    call,
    channel,
    infer_request,
    listening,
    protocol,
    refused,
)
from tests.waiting import until


async def is_answered(port: int) -> bool:
    """Whether a connection of its own gets an answer there."""
    async with channel(port) as own:
        return bool((await call(own, "ServerLive", pb.ServerLiveRequest())).live)


async def test_it_is_alive_from_start_to_close() -> None:
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


async def test_a_port_that_somebody_else_has_is_an_error() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            GrpcListener(protocol(in_process()), LOOPBACK, port, max_message_bytes=LIMIT)


async def test_a_port_that_somebody_else_takes_before_the_start_is_an_error() -> None:
    listener = GrpcListener(protocol(in_process()), LOOPBACK, 0, max_message_bytes=LIMIT)
    with (
        socket.create_server((LOOPBACK, listener.port)),
        pytest.raises(OSError, match="another program uses the port"),
    ):
        await listener.start()
    assert not listener.is_alive
    await listener.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_it_listens_on_ipv6() -> None:
    listener = GrpcListener(protocol(in_process()), "::1", 0, max_message_bytes=LIMIT)
    await listener.start()
    async with grpc.aio.insecure_channel(f"[::1]:{listener.port}") as own:
        assert (await call(own, "ServerLive", pb.ServerLiveRequest())).live
    await listener.close()


async def test_two_listeners_share_a_port() -> None:
    first, second = in_process(), in_process()
    first.dataplane.is_draining = True
    async with (
        listening(protocol(first)) as one,
        listening(protocol(second), one.port) as other,
    ):
        assert one.port == other.port
        seen = set()
        # The kernel deals connections out at random: 64 to one of two is a chance of 2^-63.
        for _ in range(64):
            async with channel(one.port) as own:
                seen.add((await call(own, "ServerReady", pb.ServerReadyRequest())).ready)
    assert seen == {True, False}


async def test_when_one_of_two_closes_the_other_gets_every_connection() -> None:
    async with listening(protocol(in_process())) as one:
        async with listening(protocol(in_process()), one.port):
            pass
        for _ in range(20):
            assert await is_answered(one.port)


async def test_after_stop_accepting_calls_go_on_and_new_ones_are_refused_by_the_data_plane() -> (
    None
):
    gate = Gate()
    gateway = in_process(gate)
    async with (
        listening(protocol(gateway)) as listener,
        channel(listener.port) as own,
        channel(listener.port) as other,
    ):
        running = asyncio.create_task(call(own, "ModelInfer", infer_request()))
        await gate.entered.wait()
        listener.stop_accepting()
        gateway.dataplane.is_draining = True
        assert listener.is_alive
        for opened in (own, other):  # one has a connection already
            error = await refused(opened, "ModelInfer", infer_request())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == (
                "the service is starting or stopping; try again in a few seconds"
            )
        gate.open.set()
        assert_answers(await running, "dense", pixels())


async def test_close_waits_for_open_calls_and_then_nobody_is_answered() -> None:
    gate = Gate()
    async with listening(protocol(in_process(gate))) as listener, channel(listener.port) as own:
        running = asyncio.create_task(call(own, "ModelInfer", infer_request()))
        await gate.entered.wait()
        closing = asyncio.create_task(listener.close(HANG_S))
        done, _ = await asyncio.wait([running, closing], timeout=2 * CLOSE_DELAY_S)
        assert not done, "it waits for the call, and the call goes on"
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await closing
        assert not listener.is_alive
        error = await refused(own, "ServerLive", pb.ServerLiveRequest())
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_calls_while_it_goes_quiet_is_answered() -> None:
    # What arrives as its server stops, grpc would cancel.
    gateway = in_process()
    async with listening(protocol(gateway)) as listener, channel(listener.port) as own:
        assert_answers(await call(own, "ModelInfer", infer_request()), "dense", pixels())
        gateway.dataplane.is_draining = True
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        errors = await asyncio.gather(
            *(refused(own, "ModelInfer", infer_request()) for _ in range(100))
        )
        assert not closing.done()
        assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
        assert {error.details() for error in errors} == {
            "the service is starting or stopping; try again in a few seconds"
        }
        await closing


async def test_close_cuts_off_what_outlasts_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with listening(protocol(gateway)) as listener, channel(listener.port) as own:
        running = asyncio.create_task(refused(own, "ModelInfer", infer_request()))
        await gate.entered.wait()
        await listener.close(0.05)
        error = await running
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        gate.open.set()
        await until(lambda: gateway.scheduler.is_idle)
    assert "Traceback" not in caplog.text


async def test_signals_are_left_to_the_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with listening(protocol(in_process())):
        during = {number: signal.getsignal(number) for number in before}
    assert during == before


def test_both_listeners_work_in_one_loop_of_uvloop() -> None:
    async def main() -> None:
        gateway = in_process()
        http = HttpListener(gateway.protocol, LOOPBACK, 0)
        await http.start()
        async with listening(protocol(gateway)) as own, channel(own.port) as opened:
            assert_answers(await call(opened, "ModelInfer", infer_request()), "dense", pixels())
            reader, writer = await asyncio.open_connection(LOOPBACK, http.port)
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await http.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


PING, GO_AWAY = 6, 7
"""HTTP/2's types of frames."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind]) + bytes(5) + payload


@asynccontextmanager
async def without_calls(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is in HTTP/2, and has no call."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4))
    try:
        async with asyncio.timeout(HANG_S):
            yield reader, writer
    finally:
        writer.close()


async def next_of(reader: asyncio.StreamReader, *kinds: int) -> int:
    """Return the type of the next frame that is of one of these."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] in kinds:
            return head[3]


async def test_a_client_may_keep_its_connection_alive_by_pings() -> None:
    async with (
        listening(protocol(in_process())) as listener,
        without_calls(listener.port) as (reader, writer),
    ):
        for i in range(6):
            writer.write(frame(PING, i.to_bytes(8)))
            assert await next_of(reader, PING, GO_AWAY) == PING
            await asyncio.sleep(1.5 * MIN_PING_INTERVAL_MS / 1e3)


async def test_a_client_that_floods_its_connection_with_pings_is_sent_away() -> None:
    async with (
        listening(protocol(in_process())) as listener,
        without_calls(listener.port) as (reader, writer),
    ):
        writer.write(b"".join(frame(PING, i.to_bytes(8)) for i in range(20)))
        assert await next_of(reader, GO_AWAY) == GO_AWAY
