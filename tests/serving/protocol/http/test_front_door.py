"""Requests that are refused before they are parsed, over real connections."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.front_door import REFUSAL, FrontDoor
from serving.protocol.http.refusal import allowed_s_of, rank_of
from serving.routing.slo import DEFAULT_PRIORITY
from tests.serving.protocol.calls import INFER
from tests.serving.protocol.door import Door, shut
from tests.serving.protocol.http.sockets import (
    SMALL,
    RawClient,
    get,
    listening,
    post,
    read_then_respond,
)
from tests.waiting import until

DONE = b"done"
"""End of a response of `read_then_respond`."""
REFUSED = REFUSAL.encode() + b'"}'
"""End of a refusal."""


async def test_a_refusal_has_status_retry_after_and_a_body_that_helps() -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        head, _, content = (await client.read_until(REFUSED)).partition(b"\r\n\r\n")
        client.close()
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    headers = dict(line.split(": ") for line in lines[1:])
    assert headers == {
        "content-type": "application/json",
        "retry-after": "1",
        "content-length": str(len(content)),
    }
    assert json.loads(content) == {"error": REFUSAL}
    assert "try again in 1 s" in REFUSAL
    assert door.refused == 1


async def test_a_refused_connection_stays_open_and_can_be_let_in_later() -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        for _ in range(3):
            await client.send(post(SMALL))
            await client.read_until(REFUSED)
        door.open()
        await client.send(post(SMALL))
        assert (await client.read_until(DONE)).startswith(b"HTTP/1.1 200")
        client.close()
    assert door.refused == 3


async def test_a_request_that_waits_is_let_in_when_another_leaves_the_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        clients = [RawClient(listener.port) for _ in range(3)]
        for number, client in enumerate(clients, 1):
            await client.send(post(SMALL))
            await until(partial(door.has_waiting, number))
        first, second, third = clients
        door.door.leave(DEFAULT_PRIORITY)
        # Each answer lets in the next one.
        for client in (third, second, first):
            assert (await client.read_until(DONE)).startswith(b"HTTP/1.1 200")
            client.close()
    assert door.refused == 0


async def test_the_application_learns_how_long_a_request_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    waited: list[float | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waited.append(scope.get("waited"))
        await read_then_respond(scope, receive, send)

    door, now = shut(), 50.0
    door.door.now = lambda: now
    async with listening(app, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
        now += 0.25
        door.door.leave(DEFAULT_PRIORITY)
        await client.read_until(DONE)
        await client.send(post(SMALL))  # is let in at once
        await client.read_until(DONE)
        client.close()
    assert waited == [pytest.approx(0.25), None]


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["closes", "resets"])
async def test_a_client_that_leaves_while_it_waits_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, leave: Callable[[RawClient], None]
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        gone, client = RawClient(listener.port), RawClient(listener.port)
        await gone.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
        leave(gone)
        await until(partial(door.has_waiting, 0))
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
        door.door.leave(DEFAULT_PRIORITY)
        assert (await client.read_until(DONE)).startswith(b"HTTP/1.1 200")
        client.close()
    assert (door.refused, door.shedder.inside) == (0, 7)


async def test_requests_that_wait_are_refused_when_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
    assert b"429" in await client.read_until(REFUSED)
    client.close()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(get(20), id="a GET"),
        pytest.param(
            b"POST /v2/repository/index HTTP/1.1\r\ncontent-length: 0\r\n\r\n", id="another POST"
        ),
        pytest.param(
            post(SMALL).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nx-slo-priority: 1\r\n", 1),
            id="a request of high priority",
        ),
    ],
)
async def test_other_requests_are_let_in(message: bytes) -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(message)
        assert (await client.read_until(DONE)).startswith(b"HTTP/1.1 200")
        client.close()
    assert door.refused == 0


@pytest.mark.parametrize(
    "head",
    [b"POST %s HTTP/1.0\r\n", b"POST %s HTTP/1.1\r\nconnection: close\r\n"],
    ids=["HTTP/1.0", "connection: close"],
)
async def test_a_connection_that_is_not_kept_closes_after_the_refusal(head: bytes) -> None:
    async with listening(read_then_respond, front_door=shut().door) as listener:
        client = RawClient(listener.port)
        message = head % INFER.encode() + b"content-length: %d\r\n\r\n" % len(SMALL) + SMALL
        await client.send(message)
        response = await client.read()  # until it is closed
        client.close()
    assert response.startswith(b"HTTP/1.1 429")
    assert b"\r\nconnection: close\r\n" in response


async def test_a_body_in_pieces_is_read_to_its_end_before_the_next_request() -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        message = post(b"x" * 300_000)
        for start in range(0, len(message), 50_000):
            await client.send(message[start : start + 50_000])
            await asyncio.sleep(0)
        await client.read_until(REFUSED)
        await client.send(get(20))
        assert (await client.read_until(DONE)).startswith(b"HTTP/1.1 200")
        client.close()
    assert door.refused == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL) + get(20) + post(SMALL) + get(20))
        response = await client.read_until(DONE, times=2)
        client.close()
    # The second inference request waits behind a running one, and is let in.
    assert re.findall(rb"HTTP/1.1 (\d+)", response)[:3] == [b"429", b"200", b"200"]
    assert door.refused == 1


async def hold(door: Door, port: int) -> list[RawClient]:
    """Send requests whose refusals are held; return their clients."""
    clients = [RawClient(port) for _ in range(20)]
    door.hold()
    for client in clients:
        await client.send(post(SMALL))
    await until(lambda: door.refused == len(clients))
    return clients


async def test_refusals_are_held_while_there_are_many_and_sent_when_the_server_stops() -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        clients = await hold(door, listener.port)
        reads = [asyncio.create_task(client.read_until(REFUSED)) for client in clients]
        await asyncio.sleep(0)
        assert not any(read.done() for read in reads)
        # A client that sends its next request gets the response to the first one now.
        await clients[0].send(get(20))
        await asyncio.wait_for(reads[0], 30)
    for read in reads[1:]:
        assert b"429" in await read
    for client in clients:
        client.close()


async def test_a_client_that_leaves_while_its_refusal_is_held_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = shut()
    async with listening(read_then_respond, front_door=door.door) as listener:
        for client in await hold(door, listener.port):
            client.reset()
        survivor = RawClient(listener.port)
        await survivor.send(get(20))
        await survivor.read_until(DONE)
        survivor.close()
    assert not caplog.records


async def test_requests_are_counted_until_they_are_answered_or_their_clients_leave() -> None:
    door = Door(limit=8)
    release = asyncio.Event()

    async def wait_then_respond(scope: object, receive: object, send: object) -> None:
        await release.wait()
        await read_then_respond(scope, receive, send)  # type: ignore[arg-type]

    async with listening(wait_then_respond, front_door=door.door) as listener:
        clients = [RawClient(listener.port) for _ in range(3)]
        for client in clients:
            await client.send(post(SMALL))
        await until(lambda: door.shedder.inside == 3)
        clients[0].reset()
        await until(lambda: door.shedder.inside == 2)
        release.set()
        for client in clients[1:]:
            await client.read_until(DONE)
        await until(lambda: door.shedder.inside == 0)
        for client in clients[1:]:
            client.close()


@pytest.mark.parametrize(
    ("method", "target", "priority", "rank"),
    [
        ("POST", "/v2/models/m/infer", None, DEFAULT_PRIORITY),
        ("POST", "/v2/models/m/versions/v/infer?a=b", b"3", 3),
        ("POST", "/v2/models/m/infer", b"0", DEFAULT_PRIORITY),
        ("POST", "/v2/models/m/infer", b"high", DEFAULT_PRIORITY),
        ("POST", "/v2/models/m/infer", b"nan", DEFAULT_PRIORITY),
        ("GET", "/v2/models/m/infer", None, None),
        ("POST", "/v2/repository/index", b"3", None),
    ],
)
def test_the_priority_of_an_inference_request_is_that_of_its_header(
    method: str, target: str, priority: bytes | None, rank: int | None
) -> None:
    headers = [(b"host", b"x")]
    if priority is not None:
        headers.append((b"x-slo-priority", priority))
    assert rank_of(method, target, headers) == rank


async def test_the_deadline_in_a_header_decides_how_old_a_request_may_be() -> None:
    door = FrontDoor(LoadShedder(), lambda: None, lambda: 100.0)
    headers = [(b"x-slo-latency-ms", b"50")]
    assert door.is_open(DEFAULT_PRIORITY, allowed_s_of(headers), 100.0 - 0.020)
    assert not door.is_open(DEFAULT_PRIORITY, allowed_s_of(headers), 100.0 - 0.040)
