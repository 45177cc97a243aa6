from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from tests.serving.builders import InProcess, in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body
from tests.serving.protocol.http.sockets import HANG_S, Named, Send, Wire, client, listening
from tests.waiting import until

PINNED = "/v2/models/shirts/versions/dense/infer"
MARK = 1_000.0
"""The pixels of requests whose callers leave begin here: `run` must not see them."""


class Watched(Gate):
    """A gate that remembers who came to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        self.seen += [float(request["pixels"][0, 0]) for request in requests]
        return await super().__call__(variant, requests)


class Busy:
    """A gateway whose one slot is taken, on a real socket; whatever else is asked waits."""

    def __init__(self, port: int, gateway: InProcess, gate: Watched) -> None:
        self.port, self.gateway, self.gate = port, gateway, gate

    @property
    def queued(self) -> int:
        return self.gateway.scheduler.queued

    def outcomes(self, outcome: str) -> float:
        labels = {"model": "shirts", "variant": "", "arm": "", "outcome": outcome}
        if outcome == "answered":
            labels["variant"] = "dense"
        return self.gateway.registry.get_sample_value("paretoserve_requests_total", labels) or 0


def post(start: float = MARK, path: str = PINNED, **headers: str) -> bytes:
    content = json.dumps(body(pixels(start=start))).encode()
    lines = [f"POST {path} HTTP/1.1", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@pytest.fixture
async def busy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Busy]:
    """However a test ends, nothing was logged: that a client leaves is no failure."""
    caplog.set_level(logging.INFO)
    gate = Watched()
    gateway = in_process(gate)
    async with listening(gateway.protocol) as listener, client(listener.port) as own:
        busy = Busy(listener.port, gateway, gate)
        first = asyncio.create_task(own.post(PINNED, json=body()))
        await gate.entered.wait()
        yield busy
        gate.open.set()
        assert_answers(await first, "dense", pixels())
        assert MARK not in gate.seen
        await until(lambda: gateway.scheduler.is_idle)
    records = caplog.get_records("call") + caplog.records
    assert [record for record in records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(Wire.close, id="closes"),
        pytest.param(Wire.reset, id="crashes"),
        pytest.param(Wire.shut_down, id="shuts down its sending half, which looks the same"),
    ],
)
async def test_a_request_whose_client_leaves_is_taken_out_of_the_queue(
    busy: Busy, leave: Any
) -> None:
    leaves, stays = Wire(busy.port), Wire(busy.port)
    await leaves.send(post())
    await stays.send(post(start=0, connection="close"))
    await until(lambda: busy.queued == 2)
    leave(leaves)
    await until(lambda: busy.queued == 1)
    assert busy.outcomes("cancelled") == 1
    busy.gate.open.set()
    assert (await stays.read()).startswith(b"HTTP/1.1 200")
    assert busy.outcomes("cancelled") == 1
    leaves.close()
    stays.close()


async def test_a_client_that_shuts_down_its_sending_half_gets_no_answer(busy: Busy) -> None:
    wire = Wire(busy.port)
    await wire.send(post())
    await until(lambda: busy.queued == 1)
    wire.shut_down()
    assert await wire.read() == b""
    wire.close()


async def test_the_answer_to_a_client_that_left_while_it_was_computed_is_dropped() -> None:
    gate = Watched()
    gateway = in_process(gate)
    async with listening(gateway.protocol) as listener, client(listener.port) as own:
        busy = Busy(listener.port, gateway, gate)
        wire = Wire(listener.port)
        await wire.send(post())
        await gate.entered.wait()
        wire.close()
        await until(lambda: busy.outcomes("cancelled") == 1)
        assert not gateway.scheduler.is_idle
        gate.open.set()
        assert_answers(await own.post(INFER, json=body()), "dense", pixels())
        assert busy.outcomes("answered") == 1


async def test_requests_that_were_sent_ahead_are_dropped_too(busy: Busy) -> None:
    wire = Wire(busy.port)
    await wire.send(post())
    await until(lambda: busy.queued == 1)
    await wire.send(post() * 2)
    wire.close()
    await until(lambda: busy.queued == 0)
    assert busy.outcomes("cancelled") == 1, "the others had not come to the queue"


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async with listening(in_process().protocol) as listener:
        wire = Wire(listener.port)
        await wire.send(b"".join(post(start=number) for number in range(40)))
        received = await wire.read_until(b'"model_name"', times=40)
        first = [float(part.split(b",")[0]) for part in received.split(b'"data":[')[1::2]]
        assert first == sorted(first)
        assert len(set(first)) == 40
        await wire.send(post(start=0, connection="close"))
        assert b'"model_name"' in await wire.read()
        wire.close()


async def test_a_client_that_leaves_with_its_answer_was_answered() -> None:
    gateway = in_process()
    async with listening(gateway.protocol) as listener:
        wire = Wire(listener.port)
        for _ in range(2):
            await wire.send(post())
            await wire.read_until(b'"model_name"')
        wire.close()
        busy = Busy(listener.port, gateway, Watched())
        assert busy.outcomes("answered") == 2
        assert busy.outcomes("cancelled") == 0


async def test_what_an_application_does_after_its_answer_is_not_cancelled() -> None:
    lost, is_done = asyncio.Event(), asyncio.Event()

    async def goes_on(scope: object, receive: object, send: Send) -> None:
        await Named(b"answer")(scope, receive, send)
        await lost.wait()
        is_done.set()

    async with listening(goes_on) as listener:
        wire = Wire(listener.port)
        await wire.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        await wire.read()
        wire.close()
        await asyncio.sleep(0)  # the listener has closed, and so lost, the connection before
        lost.set()
        async with asyncio.timeout(HANG_S):
            await is_done.wait()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(busy: Busy) -> None:
    wire = Wire(busy.port)
    await wire.send(post()[:-5])
    wire.close()
    async with client(busy.port) as own:
        assert (await own.get("/v2/health/live")).status_code == 200
    assert busy.queued == 0


async def test_an_application_that_is_cancelled_for_another_reason_is_not_hushed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def gives_up(scope: object, receive: object, send: object) -> None:
        raise asyncio.CancelledError

    async with listening(gives_up) as listener, client(listener.port) as own:
        assert (await own.get("/")).status_code == 500
    assert "Exception in ASGI application" in caplog.text
