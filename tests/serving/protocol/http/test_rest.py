"""What a client sends after the response to a request that it has not sent completely."""

from __future__ import annotations

import asyncio

import pytest

from serving.protocol.http.rest import MAX_REST_BYTES
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER
from tests.serving.protocol.http.sockets import (
    HANG_S,
    SMALL,
    RawClient,
    StaticApp,
    error_of,
    listening,
    post,
    send_until_error,
)

CHUNKED = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
MIB = 2**20
CHUNK = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"


async def send_until_closed(raw: RawClient, message: bytes) -> int:
    """Send a message again and again until the connection breaks; return the bytes sent."""
    sent = 0
    async with asyncio.timeout(HANG_S):
        try:
            while True:
                await raw.send(message)
                sent += len(message)
        except ConnectionError:
            return sent


async def test_a_chunked_body_over_the_limit_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.http.closing.LINGER_S", HANG_S)
    async with listening(in_process(max_body_bytes=1_000)) as listener:
        raw = RawClient(listener.port)
        await raw.send(CHUNKED)
        sending = asyncio.create_task(send_until_closed(raw, CHUNK))
        assert "larger than 1000" in error_of(await raw.read_until(b"}"), 413)
        assert await sending < 64 * MIB
        raw.close()


async def test_the_time_for_the_rest_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocol.http.closing.LINGER_S", 0.01)
    async with listening(in_process(max_body_bytes=10)) as listener:
        raw = RawClient(listener.port)
        await raw.send(CHUNKED + b"14\r\n" + bytes(20) + b"\r\n")
        error_of(await raw.read(), 413)
        with pytest.raises(ConnectionError):
            await send_until_error(raw, b"1\r\nx\r\n")
        raw.close()


@pytest.mark.parametrize("length", [MAX_REST_BYTES, MAX_REST_BYTES + 1])
async def test_only_a_small_rest_is_read_to_keep_the_connection(length: int) -> None:
    async with listening(StaticApp(b"done")) as listener:
        raw = RawClient(listener.port)
        await raw.send(f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode())
        response = await raw.read_until(b"done")
        is_kept = length <= MAX_REST_BYTES
        assert (b"connection: close" in response) == (not is_kept)
        await raw.send(bytes(length) + b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await raw.read_until(b"done") if is_kept else await raw.read() == b""
        raw.close()


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
async def test_a_small_rest_must_arrive_in_time(path: str) -> None:
    async with listening(in_process(max_body_bytes=10), read_timeout_s=0.2) as listener:
        raw = RawClient(listener.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n"
        await raw.send(head.encode())
        assert b"connection: close" not in await raw.read_until(b"}")
        with pytest.raises(ConnectionError):
            await send_until_error(raw, b"x")
        raw.close()


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
async def test_a_client_that_sends_its_whole_body_first_gets_the_response(path: str) -> None:
    async with listening(in_process(max_body_bytes=10)) as listener:
        raw = RawClient(listener.port)
        await raw.send(post(bytes(20 * MIB)).replace(INFER.encode(), path.encode()))
        error_of(await raw.read(), 413)
        raw.close()


async def test_a_head_must_arrive_in_time() -> None:
    async with listening(StaticApp(b"done"), read_timeout_s=0.2) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"GET / HTTP/1.1\r\na: ")
        reading = asyncio.create_task(raw.read())
        async with asyncio.timeout(HANG_S):
            while not reading.done():
                await raw.send(b"x")
                await asyncio.sleep(0.01)
        error_of(await reading, 408)
        raw.close()


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
async def test_the_next_request_is_not_taken_for_a_body_that_was_not_asked_for(path: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\nexpect: 100-continue\r\n\r\n"
    )
    async with listening(in_process(max_body_bytes=10)) as listener:
        raw = RawClient(listener.port)
        await raw.send(head.encode())
        error_of(await raw.read_until(b"}"), 413)
        await raw.send(post(SMALL))
        assert await raw.read() == b""
        raw.close()
