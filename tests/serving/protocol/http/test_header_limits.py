"""The limit on the size of the request line, headers and trailers."""

from __future__ import annotations

import asyncio

import pytest

from tests.serving.builders import in_process
from tests.serving.protocol.http.sockets import (
    SMALL,
    RawClient,
    Send,
    StaticApp,
    error_of,
    get,
    get_body,
    listening,
    post,
    read_then_respond,
    send_in_pieces,
)

LIMIT = 2_000


@pytest.mark.parametrize("piece", [1_000_000, 900], ids=["in one read", "in several reads"])
async def test_headers_may_be_as_large_as_the_limit_and_no_larger(piece: int) -> None:
    async with listening(StaticApp(b"done"), max_header_bytes=LIMIT) as listener:
        raw = RawClient(listener.port)
        await send_in_pieces(raw, get(LIMIT), piece)
        assert (await raw.read_until(b"done")).startswith(b"HTTP/1.1 200")
        await send_in_pieces(raw, get(LIMIT + 1), piece)
        assert "2000 bytes" in error_of(await raw.read(), 431)
        raw.close()
        assert await get_body(listener.port) == b"done"


async def test_a_pipelined_request_has_the_same_limit() -> None:
    gate = asyncio.Event()

    async def wait_then_respond(scope: object, receive: object, send: Send) -> None:
        await gate.wait()
        await StaticApp(b"done")(scope, receive, send)

    async with listening(wait_then_respond, max_header_bytes=LIMIT) as listener:
        in_pieces, at_once = RawClient(listener.port), RawClient(listener.port)
        await at_once.send(get(10) + get(LIMIT + 1))
        await asyncio.sleep(0.01)  # so that both are most likely read before the first is answered
        gate.set()
        first, _, second = (await at_once.read()).partition(b"done")
        assert first.startswith(b"HTTP/1.1 200")
        error_of(second, 431)
        await in_pieces.send(get(10) + get(LIMIT))
        await in_pieces.read_until(b"done", times=2)
        message = get(LIMIT + 1)
        await in_pieces.send(get(10) + message[:500])
        await in_pieces.read_until(b"done")
        await in_pieces.send(message[500:])
        error_of(await in_pieces.read(), 431)
        for raw in (in_pieces, at_once):
            raw.close()


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"GET /", b"x", id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"x", id="a header name"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\na: ", b"x", id="a header value"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a: b\r\n", id="many headers"),
        pytest.param(CHUNKED, b"a: b\r\n", id="many trailers"),
        pytest.param(CHUNKED + b"a: ", b"x", id="a trailer"),
    ],
)
async def test_an_endless_head_or_trailer_is_rejected(begin: bytes, more: bytes) -> None:
    async with listening(read_then_respond, max_header_bytes=LIMIT) as listener:
        raw = RawClient(listener.port)
        await raw.send(begin)
        reading = asyncio.create_task(raw.read())
        sent = 0
        while not reading.done():
            await raw.send(more * 100)
            sent += 100 * len(more)
            await asyncio.sleep(0.001)
        error_of(await reading, 431)
        assert sent < 1_000_000
        raw.close()


async def test_empty_lines_between_requests_do_not_count() -> None:
    async with listening(StaticApp(b"done"), max_header_bytes=LIMIT) as listener:
        raw = RawClient(listener.port)
        await send_in_pieces(raw, b"\r\n" * LIMIT + get(LIMIT), LIMIT // 2)
        await raw.read_until(b"done")
        raw.close()


async def test_bodies_and_pipelined_requests_do_not_count() -> None:
    app = in_process()
    async with listening(app, max_header_bytes=LIMIT) as listener:
        raw = RawClient(listener.port)
        # First several requests in one read, then one request in several reads.
        for padding, times in ((2 * LIMIT, 5), (800_000, 1)):
            await raw.send(post(b" " * padding + SMALL) * times)
            await raw.read_until(b'"model_name"', times)
        await raw.send(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n" * 200)
        await raw.read_until(b'"extensions"', times=200)
        raw.close()
