"""Requests that offer an upgrade to HTTP/2 or WebSocket are answered in HTTP/1.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, body
from tests.serving.protocol.http.sockets import RawClient, StaticApp, http_client, listening

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
"""The headers that Java's HTTP client and `curl --http2` send with requests."""


def post(document: Mapping[str, Any], headers: bytes = H2C) -> bytes:
    content = orjson.dumps(document)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n".encode()
    return head + headers + b"\r\n" + content


@pytest.mark.parametrize("piece", [1, 100, 100_000])
async def test_requests_that_offer_an_upgrade_are_answered(piece: int) -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        for name in ("first", "second"):
            message = post(body(pixels(), id=name))
            for start in range(0, len(message), piece):
                await raw.send(message[start : start + piece])
            response = await raw.read_until(b"deadline_met")
            assert response.startswith(b"HTTP/1.1 200")
            assert f'"id":"{name}"'.encode() in response
        raw.close()


async def test_requests_that_offer_an_upgrade_can_be_pipelined() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"".join(post(body(id=name)) for name in "abc"))
        response = await raw.read_until(b"deadline_met", times=3)
        raw.close()
    assert response.count(b"HTTP/1.1 200") == 3
    ids = [response.index(f'"id":"{name}"'.encode()) for name in "abc"]
    assert ids == sorted(ids)


async def test_connection_close_beside_an_upgrade_is_respected() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(post(body(), b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"))
        assert (await raw.read()).startswith(b"HTTP/1.1 200")
        raw.close()


async def test_thousands_of_requests_that_offer_an_upgrade_can_be_pipelined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.http.connection.MAX_QUEUED", 2_000)
    async with listening(StaticApp(b"done")) as listener:
        raw = RawClient(listener.port)
        await raw.send((b"GET / HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n") * 2_000)
        await raw.read_until(b"done", times=2_000)
        raw.close()


async def test_http_1_0_with_an_upgrade_closes_the_connection() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"GET /v2 HTTP/1.0\r\n" + H2C + b"\r\n")
        assert b"connection: close" in await raw.read()
        raw.close()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (
            b"GET /v2 HTTP/1.1\r\nhost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"200",
        ),
        (b"CONNECT example.org:443 HTTP/1.1\r\n\r\n", b"405"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
    ],
    ids=["WebSocket", "CONNECT", "HTTP/2 without an upgrade"],
)
async def test_other_protocols_are_not_supported(
    message: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(message)
        response = await raw.read_until(b"}")
        raw.close()
        assert response.startswith(b"HTTP/1.1 " + status)
        async with http_client(listener.port) as client:
            assert (await client.get("/v2/health/live")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
