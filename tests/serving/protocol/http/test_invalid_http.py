"""Bytes that are not a valid HTTP request."""

from __future__ import annotations

import asyncio

import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body
from tests.serving.protocol.http.sockets import (
    HANG_S,
    LOOPBACK,
    SMALL,
    RawClient,
    StaticApp,
    error_of,
    get,
    http_client,
    listening,
    post,
    send_until_error,
)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x00\xff nonsense\r\n\r\n", id="not HTTP"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nbroken\r\n\r\n", id="a header without a colon"),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n",
            id="a content length that is a word",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            id="a negative content length",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\nhost: x\r\n"
            b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            id="a chunk size that is not a number",
        ),
        pytest.param(
            b"GET /v2/%ff%fe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            id="a path that is not UTF-8",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{",
            id="a client that disconnects within its body",
        ),
    ],
)
async def test_invalid_http_gets_an_error_and_the_next_request_is_answered(message: bytes) -> None:
    async with listening(in_process()) as listener:
        reader, writer = await asyncio.open_connection(LOOPBACK, listener.port)
        writer.write(message)
        writer.write_eof()
        response = await asyncio.wait_for(reader.read(), HANG_S)
        writer.close()
        assert b"Traceback" not in response
        if response:
            error_of(response, 404 if b"%ff" in message else 400)
        async with http_client(listener.port) as client:
            assert_answers(await client.post(INFER, json=body()), "dense", pixels())


async def test_a_rejected_client_can_send_its_whole_request_and_gets_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.http.closing.LINGER_S", HANG_S)
    async with listening(StaticApp(b"never")) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 20_000_000)
        error_of(await raw.read(), 431)
        raw.close()


async def test_a_rejected_client_that_keeps_sending_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.http.closing.LINGER_S", 0.01)
    async with listening(StaticApp(b"never")) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"nonsense\r\n\r\n")
        error_of(await raw.read(), 400)
        with pytest.raises(ConnectionError):
            await send_until_error(raw, b"more")
        raw.close()


async def test_invalid_http_after_a_response_gets_an_error_too() -> None:
    async with listening(StaticApp(b"done")) as listener:
        raw = RawClient(listener.port)
        await raw.send(get(10))
        await raw.read_until(b"done")
        await raw.send(b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n")
        error_of(await raw.read(), 400)
        raw.close()


@pytest.mark.parametrize("is_one_write", [True, False], ids=["in one write", "in two writes"])
async def test_invalid_http_after_a_request_gets_an_error_after_its_answer(
    is_one_write: bool,
) -> None:
    gate = Gate()
    async with listening(in_process(gate)) as listener:
        raw = RawClient(listener.port)
        first, rest = post(SMALL), b"nonsense\r\n\r\n"
        await raw.send(first + rest if is_one_write else first)
        await gate.entered.wait()
        if not is_one_write:
            await raw.send(rest)
            await asyncio.sleep(0.01)  # so that it is most likely read before the answer
        gate.open.set()
        answer, start, error = (await raw.read()).partition(b"HTTP/1.1 400")
        assert answer.startswith(b"HTTP/1.1 200")
        error_of(start + error, 400)
        raw.close()
