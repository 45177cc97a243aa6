"""A closed-loop gRPC client, the twin of `client.py`: it sends the same bytes over and over.

It is grpc's own for asyncio, as Python callers use it, without building or parsing messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import uvloop

from loadtests.client.http import GRACE_S, LoadResult

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
ERROR: Final = b"\x0a"
"""What an answer in a stream begins with if it is an error: the tag of `error_message`."""

_Sender: TypeAlias = Callable[[grpc.aio.Channel, bytes, LoadResult, float], Awaitable[None]]


def run_closed_loop(port: int, message: bytes, clients: int, seconds: float) -> LoadResult:
    """Send for some seconds from so many connections, a call for each request.

    Raises `TimeoutError` if an answer is missing some seconds after the time is up.
    """
    return uvloop.run(_drive(_send_calls, port, message, clients, seconds))


def run_closed_loop_streams(port: int, message: bytes, clients: int, seconds: float) -> LoadResult:
    """Send for some seconds, a stream for each connection; raises as `run_closed_loop` does."""
    return uvloop.run(_drive(_send_stream, port, message, clients, seconds))


async def _drive(
    send: _Sender, port: int, message: bytes, clients: int, seconds: float
) -> LoadResult:
    outcome = LoadResult()
    channels = [
        # Without its own pool of subchannels, connections to one address become one.
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(clients)
    ]
    try:
        async with asyncio.timeout(seconds + GRACE_S):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            start = time.perf_counter()
            await asyncio.gather(
                *(send(channel, message, outcome, start + seconds) for channel in channels)
            )
            outcome.elapsed_s = time.perf_counter() - start
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    return outcome


async def _send_calls(
    channel: grpc.aio.Channel, message: bytes, outcome: LoadResult, until: float
) -> None:
    call: Any = channel.unary_unary(INFER)
    while (sent := time.perf_counter()) < until:
        try:
            await call(message)
            outcome.latencies_s.append(time.perf_counter() - sent)
        except grpc.aio.AioRpcError as error:
            outcome.failures += 1
            outcome.first_failure = outcome.first_failure or str(error).encode()


async def _send_stream(
    channel: grpc.aio.Channel, message: bytes, outcome: LoadResult, until: float
) -> None:
    call: Any = channel.stream_stream(STREAM)()
    answers: AsyncIterator[bytes] = aiter(call)
    while (sent := time.perf_counter()) < until:
        await call.write(message)
        answer = await anext(answers)
        if answer.startswith(ERROR):
            outcome.failures += 1
            outcome.first_failure = outcome.first_failure or answer
        else:
            outcome.latencies_s.append(time.perf_counter() - sent)
    await call.done_writing()
