"""Requests that a client sends before it has the responses to earlier ones."""

from __future__ import annotations

import asyncio

import pytest

from serving.protocol.http.connection import MAX_QUEUED
from tests.serving.protocol.http.sockets import (
    RawClient,
    Receive,
    Send,
    StaticApp,
    get,
    get_body,
    listening,
    post,
)


async def read_and_yield(scope: object, receive: Receive, send: Send) -> None:
    await receive()
    for _ in range(3):  # the listener could read more in the meantime
        await asyncio.sleep(0)
    await StaticApp(b"done")(scope, receive, send)


@pytest.mark.parametrize("app", [StaticApp(b"done"), read_and_yield])
async def test_reading_pauses_while_the_pipeline_is_full(app: object) -> None:
    """Each read holds dozens of requests, so one read per response would exceed `MAX_QUEUED`."""
    async with listening(app) as listener:
        raw = RawClient(listener.port)
        sending = asyncio.create_task(raw.send(post(b" " * 5_000) * 1_000))
        await raw.read_until(b"done", times=1_000)
        await sending
        raw.close()


async def test_the_connection_closes_after_the_last_queued_request_if_the_queue_overflows() -> None:
    async with listening(StaticApp(b"done")) as listener:
        raw = RawClient(listener.port)
        await raw.send(get(10) * 1_000)
        *responses, last, rest = (await raw.read()).split(b"done")
        raw.close()
        assert len(responses) == MAX_QUEUED, "one request runs, and the others fill the queue"
        assert b"connection: close" in last
        assert not any(b"connection" in response for response in responses)
        assert rest == b""
        assert await get_body(listener.port) == b"done"
