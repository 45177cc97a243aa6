from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import pytest

from serving.protocol.listener import HttpListener
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body, chunks
from tests.serving.protocol.sockets import (
    ENOUGH_S,
    LOOPBACK,
    Named,
    Send,
    Wire,
    client,
    is_open,
    listening,
)


async def ask(port: int) -> bytes:
    async with client(port) as own:
        return (await own.get("/")).content


async def test_the_gateway_answers_over_a_real_socket() -> None:
    async with listening(in_process().protocol) as listener, client(listener.port) as own:
        assert listener.is_alive
        response = await own.post(INFER, json=body(pixels(3)))
        assert_answers(response, "dense", pixels(3))
        assert response.headers.keys() == {"content-type", "content-length"}, "no more is told"
        assert (await own.get("/v2/health/ready")).json() == {"ready": True, "live": True}


async def test_a_body_that_streams_past_the_limit_is_refused_and_the_next_is_taken() -> None:
    app = in_process(max_body_bytes=1_000).protocol
    async with listening(app) as listener, client(listener.port) as own:
        response = await own.post(INFER, content=chunks(b" " * 600, b" " * 600))
        assert response.status_code == 413
        response = await own.post(INFER, json=body())
        assert_answers(response, "dense", pixels())


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x00\xff nonsense\r\n\r\n", id="no HTTP at all"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nbroken\r\n\r\n", id="a header without a colon"),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
            id="a content length that is no number",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            id="a negative content length",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            id="a chunk whose size is no number",
        ),
        pytest.param(
            b"GET /v2/%ff%fe HTTP/1.1\r\nconnection: close\r\n\r\n", id="a path that is no UTF-8"
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: 50\r\n\r\n{",
            id="a caller that leaves in the middle of its body",
        ),
    ],
)
async def test_nonsense_on_the_wire_leaves_the_gateway_alive(message: bytes) -> None:
    async with listening(in_process().protocol) as listener:
        reader, writer = await asyncio.open_connection(LOOPBACK, listener.port)
        writer.write(message)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), ENOUGH_S)
        writer.close()
        assert b"Traceback" not in answer
        if answer:
            assert_error(answer, 404 if b"%ff" in message else 400)
        async with client(listener.port) as own:
            assert_answers(await own.post(INFER, json=body()), "dense", pixels())


def assert_error(answer: bytes, status: int) -> str:
    """One answer, in the form of all our errors, after which the connection closes."""
    head, _, content = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ") for line in lines[1:])
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(content)
    document = json.loads(content)
    assert list(document) == ["error"]
    return str(document["error"])


LIMIT = 2_000


def get(size: int) -> bytes:
    """A request whose line and headers count so many bytes: without their method and version."""
    return b"GET / HTTP/1.1\r\na: " + b"x" * (size - 1 - 5) + b"\r\n\r\n"


@pytest.mark.parametrize("piece", [1_000_000, 900], ids=["at once", "in pieces"])
async def test_headers_may_be_as_large_as_the_limit_and_no_larger(piece: int) -> None:
    async with listening(Named(b"taken"), max_header_bytes=LIMIT) as listener:
        wire = Wire(listener.port)
        await send_in_pieces(wire, get(LIMIT), piece)
        assert (await wire.read_until(b"taken")).startswith(b"HTTP/1.1 200")
        await send_in_pieces(wire, get(LIMIT + 1), piece)
        assert "2000 bytes" in assert_error(await wire.read(), 431)
        wire.close()
        assert await ask(listener.port) == b"taken"


async def send_in_pieces(wire: Wire, message: bytes, size: int) -> None:
    for start in range(0, len(message), size):
        await wire.send(message[start : start + size])
        await asyncio.sleep(0.001)  # so that they are most likely read one by one


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"GET /", b"x", id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"x", id="a name"),
        pytest.param(b"GET / HTTP/1.1\r\na: ", b"x", id="a value"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a: b\r\n", id="many headers"),
        pytest.param(CHUNKED, b"a: b\r\n", id="many trailers"),
        pytest.param(CHUNKED + b"a: ", b"x", id="a trailer"),
    ],
)
async def test_what_never_ends_is_cut_off(begin: bytes, more: bytes) -> None:
    answered = asyncio.Event()

    async def whole_bodies_only(scope: object, receive: Any, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        answered.set()

    async with listening(whole_bodies_only, max_header_bytes=LIMIT) as listener:
        wire = Wire(listener.port)
        await wire.send(begin)
        reading = asyncio.create_task(wire.read())
        sent = 0
        while not reading.done():
            await wire.send(more * 100)
            sent += 100 * len(more)
            await asyncio.sleep(0.001)
        assert_error(await reading, 431)
        assert sent < 1_000_000
        assert not answered.is_set()
        wire.close()


async def test_a_client_that_is_refused_can_say_all_it_has_to_say_and_hears_why() -> None:
    async with listening(Named(b"never")) as listener:
        wire = Wire(listener.port)
        await wire.send(b"GET / HTTP/1.1\r\na: " + b"x" * 20_000_000)
        assert_error(await wire.read(), 431)
        wire.close()


async def test_a_client_that_is_refused_and_does_not_leave_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.protocol.connection.LINGER_S", 0.01)
    async with listening(Named(b"never")) as listener:
        wire = Wire(listener.port)
        await wire.send(b"nonsense\r\n\r\n")
        assert_error(await wire.read(), 400)
        with pytest.raises(ConnectionError):
            await send_for_ever(wire)
        wire.close()


async def send_for_ever(wire: Wire) -> None:
    async with asyncio.timeout(ENOUGH_S):
        while True:
            await wire.send(b"more")
            await asyncio.sleep(0.001)


def post(content: bytes) -> bytes:
    return f"POST {INFER} HTTP/1.1\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


SMALL = json.dumps(body()).encode()


async def test_a_large_body_is_no_header_nor_are_requests_that_were_sent_ahead() -> None:
    app = in_process().protocol
    async with listening(app, max_header_bytes=LIMIT) as listener:
        wire = Wire(listener.port)
        for padding, times in ((2 * LIMIT, 5), (800_000, 1)):  # several in a read, one in several
            await wire.send(post(b" " * padding + SMALL) * times)
            await wire.read_until(b'"model_name"', times)
        await wire.send(b"GET /v2 HTTP/1.1\r\n\r\n" * 200)
        await wire.read_until(b'"extensions"', times=200)
        wire.close()


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"GET /v2 HTTP/1.1\r\nhost", id="in its headers"),
        pytest.param(
            b"POST " + INFER.encode() + b" HTTP/1.1\r\ncontent-length: 5\r\n\r\n{",
            id="in its body",
        ),
    ],
)
async def test_a_request_that_stops_arriving_is_given_up_and_a_slow_answer_is_not(
    begun: bytes,
) -> None:
    gate = Gate()
    app = in_process(gate).protocol
    async with (
        listening(app, silence_s=0.2) as listener,
        client(listener.port) as own,
    ):
        running = asyncio.create_task(own.post(INFER, json=body()))
        await gate.entered.wait()
        idle = Wire(listener.port)
        await idle.send(b"GET /v2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await idle.read_until(b"extensions")
        await idle.send(b"0\r\n\r\n")
        stops = Wire(listener.port)
        await stops.send(begun)
        assert "0.2 s" in assert_error(await stops.read(), 408)
        assert not running.done()
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await idle.send(b"GET /v2 HTTP/1.1\r\n\r\n")
        await idle.read_until(b"extensions")
        for wire in (idle, stops):
            wire.close()


async def test_a_request_that_stops_arriving_after_its_answer_gets_no_other() -> None:
    app = in_process(max_body_bytes=10).protocol
    async with listening(app, silence_s=0.2) as listener:
        wire = Wire(listener.port)
        await wire.send(f"POST {INFER} HTTP/1.1\r\ncontent-length: 50\r\n\r\n{{".encode())
        received = await wire.read()
        assert received.startswith(b"HTTP/1.1 413")
        assert received.count(b"HTTP/1.1") == 1
        wire.close()


async def test_a_client_that_is_not_listened_to_has_not_stopped() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol, silence_s=0.2) as listener:
        ahead, stops = Wire(listener.port), Wire(listener.port)
        await ahead.send(post(SMALL))
        await gate.entered.wait()
        large = post(b" " * 200_000 + SMALL)
        await ahead.send(large[:-5])  # so much is kept for later that reading pauses
        await stops.send(large[:5])
        await stops.read()
        gate.open.set()
        await ahead.send(large[-5:])
        await ahead.read_until(b'"model_name"', times=2)
        for wire in (ahead, stops):
            wire.close()


async def test_nonsense_behind_a_good_request_is_not_taken_for_its_answer() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(post(SMALL))
        await gate.entered.wait()
        await wire.send(b"nonsense\r\n\r\n")
        assert await wire.read() == b""
        wire.close()
        gate.open.set()


async def test_two_listeners_share_a_port() -> None:
    async with (
        listening(Named(b"first")) as first,
        listening(Named(b"second"), first.port) as second,
    ):
        assert first.port == second.port
        # The kernel deals connections out at random: 64 to one of two is a chance of 2^-63.
        seen = {await ask(first.port) for _ in range(64)}
    assert seen == {b"first", b"second"}


async def test_when_one_of_two_closes_the_other_gets_every_connection() -> None:
    async with listening(Named(b"first")) as first:
        async with listening(Named(b"second"), first.port):
            pass
        assert {await ask(first.port) for _ in range(20)} == {b"first"}


def test_a_port_that_somebody_else_has_is_an_error() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            HttpListener(Named(b"late"), LOOPBACK, port)


async def test_close_lets_an_open_request_finish_and_takes_no_other() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol) as listener, client(listener.port) as own:
        running = asyncio.create_task(own.post(INFER, json=body()))
        await gate.entered.wait()
        closing = asyncio.create_task(listener.close())
        async with asyncio.timeout(ENOUGH_S):
            while await is_open(listener.port):
                await asyncio.sleep(0.001)
        done, _ = await asyncio.wait([running, closing], timeout=0.3)
        assert not done, "it waits for the request, and the request goes on"
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await closing
        assert not listener.is_alive


async def test_close_frees_the_port_even_before_the_start() -> None:
    listener = HttpListener(Named(b"never"), LOOPBACK, 0)
    assert not listener.is_alive
    await listener.close()
    with socket.create_server((LOOPBACK, listener.port)):
        pass


async def test_signals_are_left_to_the_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with listening(Named(b"quiet")):
        during = {number: signal.getsignal(number) for number in before}
    assert during == before
