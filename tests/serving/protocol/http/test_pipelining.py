"""Requests that a client sends before it has the responses to earlier ones."""

from __future__ import annotations

import asyncio

import pytest

from serving.protocol.http.connection import MAX_QUEUED
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER
from tests.serving.protocol.http.sockets import (
    SMALL,
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


async def test_requests_after_the_last_one_of_a_connection_are_not_computed() -> None:
    gateway = in_process()
    async with listening(gateway) as listener:
        raw = RawClient(listener.port)
        head = f"POST {INFER} HTTP/1.0\r\nconnection: keep-alive\r\n"  # which 1.0 does not know
        message = f"{head}content-length: {len(SMALL)}\r\n\r\n".encode() + SMALL
        await raw.send(message * 3)
        assert (await raw.read()).count(b"HTTP/1.1 200") == 1
        raw.close()
    assert gateway.dataplane.statistics("dense").success.count == 1
