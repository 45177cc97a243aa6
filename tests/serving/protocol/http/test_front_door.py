"""Requests that are refused before they are parsed, over real connections."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import partial

import pytest

from serving.dataplane.delivery import Delivery
from serving.dataplane.gateway_delay import Admission, GatewayDelay
from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.control import Caller
from serving.protocol.front_door import REFUSAL, FrontDoor, read_allowed_s, read_rank
from serving.protocol.http.place import Place, find_place
from serving.routing.slo import DEFAULT_PRIORITY
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER, Gate
from tests.serving.protocol.door import Door, shut
from tests.serving.protocol.http.sockets import SMALL, RawClient, listening, post
from tests.waiting import until

DONE = b'"model_name"'
"""A part of each answer."""
GET = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
LIVE = b'{"live":true}'
"""End of the response to `GET`."""
REFUSED = REFUSAL.encode() + b'"}'
"""End of a refusal."""


async def test_a_refusal_has_status_retry_after_and_a_body_that_helps() -> None:
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
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
    async with listening(in_process(), front_door=door.door) as listener:
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
    async with listening(in_process(), front_door=door.door) as listener:
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


async def test_the_data_plane_learns_how_long_a_request_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    waited: list[float] = []
    admit = GatewayDelay.admit

    def record(
        delay: GatewayDelay,
        received: float,
        allowed_s: float,
        now: float,
        delivery: Delivery,
        waited_s: float,
    ) -> Admission:
        waited.append(waited_s)
        return admit(delay, received, allowed_s, now, delivery, waited_s)

    monkeypatch.setattr(GatewayDelay, "admit", record)
    door, now = shut(), 50.0
    door.door.now = lambda: now
    async with listening(in_process(), front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
        now += 0.25
        door.door.leave(DEFAULT_PRIORITY)
        await client.read_until(DONE)
        await client.send(post(SMALL))  # is let in at once
        await client.read_until(DONE)
        client.close()
    assert waited == [pytest.approx(0.25), 0.0]


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["closes", "resets"])
async def test_a_client_that_leaves_while_it_waits_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, leave: Callable[[RawClient], None]
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
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
    async with listening(in_process(), front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
    assert b"429" in await client.read_until(REFUSED)
    client.close()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(GET, id="a GET"),
        pytest.param(
            b"POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            id="another POST",
        ),
        pytest.param(
            post(SMALL).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nx-slo-priority: 1\r\n", 1),
            id="a request of high priority",
        ),
    ],
)
async def test_other_requests_are_let_in(message: bytes) -> None:
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(message)
        assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 200")
        client.close()
    assert door.refused == 0


@pytest.mark.parametrize(
    "head",
    [b"POST %s HTTP/1.0\r\n", b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"],
    ids=["HTTP/1.0", "connection: close"],
)
async def test_a_connection_that_is_not_kept_closes_after_the_refusal(head: bytes) -> None:
    async with listening(in_process(), front_door=shut().door) as listener:
        client = RawClient(listener.port)
        message = head % INFER.encode() + b"content-length: %d\r\n\r\n" % len(SMALL) + SMALL
        await client.send(message)
        response = await client.read()  # until it is closed
        client.close()
    assert response.startswith(b"HTTP/1.1 429")
    assert b"\r\nconnection: close\r\n" in response


async def test_a_body_in_pieces_is_read_to_its_end_before_the_next_request() -> None:
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
        client = RawClient(listener.port)
        message = post(b"x" * 300_000)
        for start in range(0, len(message), 50_000):
            await client.send(message[start : start + 50_000])
            await asyncio.sleep(0)
        await client.read_until(REFUSED)
        await client.send(GET)
        assert (await client.read_until(LIVE)).startswith(b"HTTP/1.1 200")
        client.close()
    assert door.refused == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL) + GET + post(SMALL) + GET)
        response = await client.read_until(LIVE, times=2)
        client.close()
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"429", b"200", b"429", b"200"]
    assert door.refused == 2


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
    async with listening(in_process(), front_door=door.door) as listener:
        clients = await hold(door, listener.port)
        reads = [asyncio.create_task(client.read_until(REFUSED)) for client in clients]
        await asyncio.sleep(0)
        assert not any(read.done() for read in reads)
        # A client that sends its next request gets the response to the first one now.
        await clients[0].send(GET)
        await asyncio.wait_for(reads[0], 30)
    for read in reads[1:]:
        assert b"429" in await read
    for client in clients:
        client.close()


async def test_a_client_that_leaves_while_its_refusal_is_held_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = shut()
    async with listening(in_process(), front_door=door.door) as listener:
        for client in await hold(door, listener.port):
            client.reset()
        survivor = RawClient(listener.port)
        await survivor.send(GET)
        await survivor.read_until(LIVE)
        survivor.close()
    assert not caplog.records


async def test_requests_are_counted_until_they_are_answered_or_their_clients_leave() -> None:
    door, gate = Door(limit=8), Gate()
    async with listening(in_process(gate), front_door=door.door) as listener:
        clients = [RawClient(listener.port) for _ in range(3)]
        for client in clients:
            await client.send(post(SMALL))
        await until(lambda: door.shedder.inside == 3)
        clients[0].reset()
        await until(lambda: door.shedder.inside == 2)
        gate.open.set()
        for client in clients[1:]:
            await client.read_until(DONE)
        await until(lambda: door.shedder.inside == 0)
        for client in clients[1:]:
            client.close()


async def test_requests_that_fail_at_once_let_all_others_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each leaves as soon as it is let in: hundreds of them must not be nested calls."""
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door, count = shut(), 500
    async with listening(in_process(), front_door=door.door) as listener:
        clients = [RawClient(listener.port) for _ in range(count)]
        for client in clients:
            await client.send(post(b"no JSON"))
        await until(partial(door.has_waiting, count))
        door.door.leave(DEFAULT_PRIORITY)
        for client in clients:
            assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 400")
            client.close()
    assert door.shedder.inside == 7


async def test_others_are_let_in_after_the_callback_in_which_one_leaves() -> None:
    """It may be answering a batch, and parsing another request would delay the other answers."""
    door = shut()
    let_in: list[object] = []

    class Waiting:
        def let_in(self) -> None:
            let_in.append(self)

        def refuse(self) -> None:
            raise AssertionError

    waiting = Waiting()
    door.door.wait(waiting, DEFAULT_PRIORITY, None, door.door.now())
    door.door.leave(DEFAULT_PRIORITY)
    assert let_in == []
    await asyncio.sleep(0)
    assert let_in == [waiting]


async def test_an_unforeseen_error_in_the_check_of_a_request_that_waited_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)

    def fail(caller: Caller) -> None:
        raise RuntimeError("a bug")

    door, gateway = shut(), in_process()
    gateway.endpoint._check_caller = fail
    async with listening(gateway, front_door=door.door) as listener:
        client = RawClient(listener.port)
        await client.send(post(SMALL))
        await until(partial(door.has_waiting, 1))
        door.door.leave(DEFAULT_PRIORITY)
        assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 500")
        client.close()
    assert door.shedder.inside == 7


async def test_the_limit_of_the_body_holds_for_a_request_that_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.dataplane.load_shedder.MAX_WAIT_S", 1e3)
    door = shut()
    async with listening(in_process(max_body_bytes=10), front_door=door.door) as listener:
        client = RawClient(listener.port)
        head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        await client.send(head + b"14\r\n" + b" " * 20 + b"\r\n0\r\n\r\n")
        await until(partial(door.has_waiting, 1))
        door.door.leave(DEFAULT_PRIORITY)
        assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 413")
        client.close()


async def test_a_client_that_waits_for_100_continue_is_refused_too() -> None:
    async with listening(in_process(), front_door=shut().door) as listener:
        client = RawClient(listener.port)
        head = (
            f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
        )
        await client.send(head.encode())
        response = await client.read()  # until it is closed: the body may follow or not
        client.close()
    assert response.startswith(b"HTTP/1.1 429")
    assert b"\r\nconnection: close\r\n" in response


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (b"/v2/models/m/infer", Place("m", None)),
        (b"/v2/models/m/versions/v/infer?a=b", Place("m", "v")),
        (b"http://host/v2/models/m/infer", Place("m", None)),
        (b"/v2/models/a%2Fversions%2Fb/infer", Place("a/versions/b", None)),
        (b"/v2/models/" + b"m" * 300 + b"/infer", Place("m" * 300, None)),
        (b"/v2/models/m", None),
        (b"/v2/repository/index", None),
        (b"*", None),
        (b"http://host", None),
    ],
)
def test_inference_requests_are_recognized_by_their_targets(
    target: bytes, place: Place | None
) -> None:
    assert find_place(target) == place


@pytest.mark.parametrize(
    ("value", "rank"),
    [
        (None, DEFAULT_PRIORITY),
        (b"3", 3),
        ("3", 3),
        (b"0", DEFAULT_PRIORITY),
        (b"high", DEFAULT_PRIORITY),
        (b"nan", DEFAULT_PRIORITY),
    ],
)
def test_the_priority_of_an_inference_request_is_that_of_its_header(
    value: bytes | str | None, rank: int
) -> None:
    assert read_rank(value) == rank


async def test_the_deadline_in_a_header_decides_how_old_a_request_may_be() -> None:
    door = FrontDoor(LoadShedder(), lambda: None, lambda: 100.0)
    allowed_s = read_allowed_s(b"50")
    assert door.is_open(DEFAULT_PRIORITY, allowed_s, 100.0 - 0.020)
    assert not door.is_open(DEFAULT_PRIORITY, allowed_s, 100.0 - 0.040)
