"""A closed-loop gRPC client: each connection sends the same message again after each response.

It uses the asyncio client of grpc, as Python callers do, but neither builds nor parses messages.
`http.py` is its counterpart for HTTP.
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
"""First byte of a response in a stream that is an error: the tag of `error_message`."""

_Sender: TypeAlias = Callable[[grpc.aio.Channel, bytes, LoadResult, float], Awaitable[None]]


def run_closed_loop(port: int, message: bytes, clients: int, seconds: float) -> LoadResult:
    """Send requests over `clients` connections for `seconds`, one unary call per request.

    Raises TimeoutError if a response is missing `GRACE_S` after the time is up.
    """
    return uvloop.run(_run(_send_calls, port, message, clients, seconds))


def run_closed_loop_streams(port: int, message: bytes, clients: int, seconds: float) -> LoadResult:
    """Send requests over one stream per connection; otherwise as `run_closed_loop`."""
    return uvloop.run(_run(_send_stream, port, message, clients, seconds))


async def _run(
    send: _Sender, port: int, message: bytes, clients: int, seconds: float
) -> LoadResult:
    result = LoadResult()
    channels = [
        # Channels to one address share a connection unless each has its own subchannel pool.
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
                *(send(channel, message, result, start + seconds) for channel in channels)
            )
            result.elapsed_s = time.perf_counter() - start
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    return result


async def _send_calls(
    channel: grpc.aio.Channel, message: bytes, result: LoadResult, until: float
) -> None:
    call: Any = channel.unary_unary(INFER)
    while True:
        sent = time.perf_counter()
        try:
            await call(message)
            result.latencies_s.append(time.perf_counter() - sent)
        except grpc.aio.AioRpcError as error:
            result.failures += 1
            result.first_failure = result.first_failure or str(error).encode()
        if time.perf_counter() >= until:
            return


async def _send_stream(
    channel: grpc.aio.Channel, message: bytes, result: LoadResult, until: float
) -> None:
    call: Any = channel.stream_stream(STREAM)()
    responses: AsyncIterator[bytes] = aiter(call)
    while True:
        sent = time.perf_counter()
        await call.write(message)
        response = await anext(responses)
        if response.startswith(ERROR):
            result.failures += 1
            result.first_failure = result.first_failure or response
        else:
            result.latencies_s.append(time.perf_counter() - sent)
        if time.perf_counter() >= until:
            break
    await call.done_writing()
