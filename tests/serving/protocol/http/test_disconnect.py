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
from tests.serving.protocol.http.sockets import (
    HANG_S,
    RawClient,
    Send,
    StaticApp,
    http_client,
    listening,
)
from tests.waiting import until

PINNED = "/v2/models/shirts/versions/dense/infer"
MARK = 1_000.0
"""First pixel of requests whose clients disconnect. `run` must not see them."""


class RecordingGate(Gate):
    """A gate that records the first pixel of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.first_pixels: list[float] = []

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        self.first_pixels += [float(request["pixels"][0, 0]) for request in requests]
        return await super().__call__(variant, requests)


class BusyGateway:
    """A gateway on a real socket whose only slot is busy, so that other requests are queued."""

    def __init__(self, port: int, gateway: InProcess, gate: RecordingGate) -> None:
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
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@pytest.fixture
async def busy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[BusyGateway]:
    """Check that tests log no warning: a disconnect is not an error."""
    caplog.set_level(logging.INFO)
    gate = RecordingGate()
    gateway = in_process(gate)
    async with listening(gateway) as listener, http_client(listener.port) as client:
        busy = BusyGateway(listener.port, gateway, gate)
        first = asyncio.create_task(client.post(PINNED, json=body()))
        await gate.entered.wait()
        yield busy
        gate.open.set()
        assert_answers(await first, "dense", pixels())
        assert MARK not in gate.first_pixels
        await until(lambda: gateway.scheduler.is_idle)
    records = caplog.get_records("call") + caplog.records
    assert [record for record in records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "disconnect",
    [
        pytest.param(RawClient.close, id="close"),
        pytest.param(RawClient.reset, id="reset"),
        pytest.param(RawClient.shut_down, id="shutdown of the sending side"),
    ],
)
async def test_a_disconnect_removes_the_request_from_the_queue(
    busy: BusyGateway, disconnect: Any
) -> None:
    leaving, staying = RawClient(busy.port), RawClient(busy.port)
    await leaving.send(post())
    await staying.send(post(start=0, connection="close"))
    await until(lambda: busy.queued == 2)
    disconnect(leaving)
    await until(lambda: busy.queued == 1)
    assert busy.outcomes("cancelled") == 1
    busy.gate.open.set()
    assert (await staying.read()).startswith(b"HTTP/1.1 200")
    assert busy.outcomes("cancelled") == 1
    leaving.close()
    staying.close()


async def test_a_client_that_shuts_down_its_sending_side_gets_no_response(
    busy: BusyGateway,
) -> None:
    raw = RawClient(busy.port)
    await raw.send(post())
    await until(lambda: busy.queued == 1)
    raw.shut_down()
    assert await raw.read() == b""
    raw.close()


async def test_a_disconnect_during_the_computation_drops_the_response() -> None:
    gate = RecordingGate()
    gateway = in_process(gate)
    async with listening(gateway) as listener, http_client(listener.port) as client:
        busy = BusyGateway(listener.port, gateway, gate)
        raw = RawClient(listener.port)
        await raw.send(post())
        await gate.entered.wait()
        raw.close()
        await until(lambda: busy.outcomes("cancelled") == 1)
        assert not gateway.scheduler.is_idle
        gate.open.set()
        assert_answers(await client.post(INFER, json=body()), "dense", pixels())
        assert busy.outcomes("answered") == 1


async def test_a_disconnect_drops_pipelined_requests(busy: BusyGateway) -> None:
    raw = RawClient(busy.port)
    await raw.send(post())
    await until(lambda: busy.queued == 1)
    await raw.send(post() * 2)
    await until(lambda: busy.queued == 3)
    raw.close()
    await until(lambda: busy.queued == 0)
    assert busy.outcomes("cancelled") == 3


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"".join(post(start=number) for number in range(40)))
        received = await raw.read_until(b'"model_name"', times=40)
        outputs = [float(part.split(b",")[0]) for part in received.split(b'"data":[')[1::2]]
        assert outputs == sorted(outputs)
        assert len(set(outputs)) == 40
        await raw.send(post(start=0, connection="close"))
        assert b'"model_name"' in await raw.read()
        raw.close()


async def test_a_disconnect_after_the_response_is_not_a_cancellation() -> None:
    gateway = in_process()
    async with listening(gateway) as listener:
        raw = RawClient(listener.port)
        for _ in range(2):
            await raw.send(post())
            await raw.read_until(b'"model_name"')
        raw.close()
        busy = BusyGateway(listener.port, gateway, RecordingGate())
        assert busy.outcomes("answered") == 2
        assert busy.outcomes("cancelled") == 0


async def test_work_after_the_response_is_not_cancelled() -> None:
    lost, is_done = asyncio.Event(), asyncio.Event()

    async def continue_after_response(scope: object, receive: object, send: Send) -> None:
        await StaticApp(b"answer")(scope, receive, send)
        await lost.wait()
        is_done.set()

    async with listening(continue_after_response) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await raw.read()
        raw.close()
        await asyncio.sleep(0)  # the listener has closed the connection before
        lost.set()
        async with asyncio.timeout(HANG_S):
            await is_done.wait()


async def test_a_disconnect_within_the_body_is_not_an_error(busy: BusyGateway) -> None:
    raw = RawClient(busy.port)
    await raw.send(post()[:-5])
    raw.close()
    async with http_client(busy.port) as client:
        assert (await client.get("/v2/health/live")).status_code == 200
    assert busy.queued == 0


async def test_a_cancellation_without_a_disconnect_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cancel_itself(scope: object, receive: object, send: object) -> None:
        raise asyncio.CancelledError

    async with listening(cancel_itself) as listener, http_client(listener.port) as client:
        assert (await client.get("/")).status_code == 500
    assert "Exception in ASGI application" in caplog.text
