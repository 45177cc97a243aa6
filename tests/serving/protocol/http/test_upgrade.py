"""Who would rather speak HTTP/2 or WebSocket is answered in HTTP/1.1, as if nothing was said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, body
from tests.serving.protocol.http.sockets import Named, Wire, client, listening

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
"""As Java's HTTP client says it with every request, and `curl --http2`."""


def post(document: Mapping[str, Any], headers: bytes = H2C) -> bytes:
    content = orjson.dumps(document)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n".encode()
    return head + headers + b"\r\n" + content


@pytest.mark.parametrize("piece", [1, 100, 100_000])
async def test_a_request_that_offers_an_upgrade_is_answered_and_so_is_the_next(piece: int) -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        for name in ("first", "second"):
            message = post(body(pixels(), id=name))
            for start in range(0, len(message), piece):
                await wire.send(message[start : start + piece])
            answer = await wire.read_until(b"deadline_met")
            assert answer.startswith(b"HTTP/1.1 200")
            assert f'"id":"{name}"'.encode() in answer
        wire.close()


async def test_requests_that_offer_an_upgrade_can_be_sent_ahead() -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(b"".join(post(body(id=name)) for name in "abc"))
        answer = await wire.read_until(b"deadline_met", times=3)
        wire.close()
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b'"id":"a"') < answer.index(b'"id":"b"') < answer.index(b'"id":"c"')


async def test_a_connection_that_is_to_be_closed_still_is() -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(post(body(), b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"))
        assert (await wire.read()).startswith(b"HTTP/1.1 200")
        wire.close()


async def test_any_number_of_requests_that_offer_an_upgrade_can_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.http.connection.MAX_QUEUED", 2_000)
    async with listening(Named(b"taken")) as listener:
        wire = Wire(listener.port)
        await wire.send((b"GET / HTTP/1.1\r\n" + H2C + b"\r\n") * 2_000)
        await wire.read_until(b"taken", times=2_000)
        wire.close()


async def test_a_client_that_speaks_an_older_version_is_answered_in_its_own() -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(b"GET /v2 HTTP/1.0\r\n" + H2C + b"\r\n")
        assert b"connection: close" in await wire.read()
        wire.close()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"200"),
        (b"CONNECT example.org:443 HTTP/1.1\r\n\r\n", b"405"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
    ],
    ids=["websocket", "connect", "HTTP/2 at once"],
)
async def test_other_protocols_are_not_spoken(
    message: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(message)
        answer = await wire.read_until(b"}")
        wire.close()
        assert answer.startswith(b"HTTP/1.1 " + status)
        async with client(listener.port) as own:
            assert (await own.get("/v2/health/live")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
