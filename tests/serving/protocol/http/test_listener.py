from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from serving.protocol.http.connection import MAX_QUEUED
from serving.protocol.http.listener import HttpListener
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body, chunks
from tests.serving.protocol.http.sockets import (
    HANG_S,
    LOOPBACK,
    SMALL,
    Named,
    Receive,
    Send,
    Wire,
    assert_error,
    client,
    is_open,
    listening,
    post,
    send_for_ever,
    whole_bodies_only,
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
        answer = await asyncio.wait_for(reader.read(), HANG_S)
        writer.close()
        assert b"Traceback" not in answer
        if answer:
            assert_error(answer, 404 if b"%ff" in message else 400)
        async with client(listener.port) as own:
            assert_answers(await own.post(INFER, json=body()), "dense", pixels())


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


async def test_a_request_that_comes_with_another_has_the_same_limit() -> None:
    gate = asyncio.Event()

    async def waits(scope: object, receive: object, send: Send) -> None:
        await gate.wait()
        await Named(b"taken")(scope, receive, send)

    async with listening(waits, max_header_bytes=LIMIT) as listener:
        splits, whole = Wire(listener.port), Wire(listener.port)
        await whole.send(get(10) + get(LIMIT + 1))
        assert await whole.read() == b"", "nobody could tell which of the two is refused"
        gate.set()
        await whole_and_too_large(splits)
        for wire in (splits, whole):
            wire.close()


async def whole_and_too_large(wire: Wire) -> None:
    """A request with one as large as may be, and one that is too large and comes in two reads."""
    await wire.send(get(10) + get(LIMIT))
    await wire.read_until(b"taken", times=2)
    message = get(LIMIT + 1)
    await wire.send(get(10) + message[:500])
    await wire.read_until(b"taken")
    await wire.send(message[500:])
    assert_error(await wire.read(), 431)


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
    monkeypatch.setattr("serving.protocol.http.connection.LINGER_S", 0.01)
    async with listening(Named(b"never")) as listener:
        wire = Wire(listener.port)
        await wire.send(b"nonsense\r\n\r\n")
        assert_error(await wire.read(), 400)
        with pytest.raises(ConnectionError):
            await send_for_ever(wire, b"more")
        wire.close()


async def test_empty_lines_between_requests_are_no_headers() -> None:
    async with listening(Named(b"taken"), max_header_bytes=LIMIT) as listener:
        wire = Wire(listener.port)
        await send_in_pieces(wire, b"\r\n" * LIMIT + get(LIMIT), LIMIT // 2)
        await wire.read_until(b"taken")
        wire.close()


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


async def test_what_is_no_request_is_told_so_after_an_answer_too() -> None:
    async with listening(Named(b"taken")) as listener:
        wire = Wire(listener.port)
        await wire.send(get(10))
        await wire.read_until(b"taken")
        await wire.send(b"GET http://x HTTP/1.1\r\n\r\n")
        assert_error(await wire.read(), 400)
        wire.close()


async def reads_and_works(scope: object, receive: Receive, send: Send) -> None:
    await receive()
    for _ in range(3):  # in which more could be read
        await asyncio.sleep(0)
    await Named(b"taken")(scope, receive, send)


@pytest.mark.parametrize("app", [Named(b"taken"), reads_and_works])
async def test_no_more_is_read_while_enough_requests_wait(app: object) -> None:
    """Each read holds dozens of requests; with one more per answer there would be too many."""
    async with listening(app) as listener:
        wire = Wire(listener.port)
        sending = asyncio.create_task(wire.send(post(b" " * 5_000) * 1_000))
        await wire.read_until(b"taken", times=1_000)
        await sending
        wire.close()


async def test_more_requests_at_once_than_are_taken_end_the_connection_after_the_last() -> None:
    async with listening(Named(b"taken")) as listener:
        wire = Wire(listener.port)
        await wire.send(get(10) * 1_000)
        *answers, last, rest = (await wire.read()).split(b"taken")
        wire.close()
        assert len(answers) == MAX_QUEUED, "one was answered, and so many waited"
        assert b"connection: close" in last
        assert not any(b"connection" in answer for answer in answers)
        assert rest == b""
        assert await ask(listener.port) == b"taken"


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
        async with asyncio.timeout(HANG_S):
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
