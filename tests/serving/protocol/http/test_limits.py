"""What a gateway does not take, or not now: large bodies, full queues, before and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import (
    INFER,
    Gate,
    assert_answers,
    assert_refuses,
    body,
    chunks,
)


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


LIMIT = 1_000


@pytest.fixture
async def small() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that takes bodies up to `LIMIT`."""
    async with in_process(max_body_bytes=LIMIT).client() as client:
        yield client


async def test_a_body_whose_length_is_over_the_limit_is_refused_unread(
    small: httpx.AsyncClient,
) -> None:
    headers = {"content-length": str(LIMIT + 1)}
    response = await small.post(INFER, content=unread(), headers=headers)
    assert_refuses(response, 413, "the body is larger than 1000 bytes; send fewer samples")


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([LIMIT + 1], id="in one chunk"),
        pytest.param([LIMIT, 1], id="by its last chunk"),
        pytest.param([1] * (LIMIT + 1), id="in many small ones"),
        pytest.param([LIMIT - 1, 2, LIMIT], id="in the middle"),
    ],
)
async def test_a_streamed_body_over_the_limit_is_refused(
    small: httpx.AsyncClient, sizes: Sequence[int]
) -> None:
    response = await small.post(INFER, content=chunks(*(b" " * size for size in sizes)))
    assert_refuses(response, 413, "the body is larger than 1000 bytes")


async def test_a_body_over_the_limit_in_one_message_of_unknown_length_is_refused() -> None:
    sent = []

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": b" " * (LIMIT + 1), "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
    await in_process(max_body_bytes=LIMIT).protocol(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_a_streamed_body_up_to_the_limit_is_taken(small: httpx.AsyncClient) -> None:
    whole = httpx.Request("POST", "http://gateway", json=body()).content.ljust(LIMIT)
    response = await small.post(INFER, content=chunks(whole[:7], whole[7:500], b"", whole[500:]))
    assert_answers(response, "dense", pixels())


async def test_a_full_queue_sheds_and_a_passed_deadline_is_told() -> None:
    gate = Gate()
    gateway = in_process(gate, max_queue=1)
    pinned = {"variant": "dense", "slo_latency_ms": 30}
    async with gateway.client() as client:
        running = asyncio.create_task(client.post(INFER, json=body()))
        await gate.entered.wait()
        waiting = asyncio.create_task(client.post(INFER, json=body(parameters=pinned)))
        while not gateway.scheduler.queued:
            await asyncio.sleep(0)
        shed = await client.post(INFER, json=body(parameters={"variant": "dense"}))
        assert_refuses(shed, 429, "the queue is full with 1 requests")
        assert shed.headers["retry-after"] == "1"
        assert_refuses(await waiting, 504, "no variant could answer in time any more")
        metrics = (await client.get("/metrics")).text
        assert 'paretoserve_saved_samples_total{model="shirts"} 1.0' in metrics
        gate.open.set()
        assert_answers(await running, "dense", pixels())


async def test_before_every_variant_was_up_nothing_is_ready() -> None:
    gateway = in_process(slots=0)
    gateway.scheduler.set_slots("int8", 1)
    async with gateway.client() as client:
        for path, status in {
            "/v2/health/live": 200,
            "/-/healthz": 503,
            "/v2/health/ready": 503,
            "/v2/models/shirts/ready": 503,
            "/v2/models/shirts/versions/int8/ready": 200,
            "/v2/models/shirts/versions/dense/ready": 503,
        }.items():
            assert (await client.get(path)).status_code == status, path
        ready = await client.get("/v2/health/ready")
        assert ready.json() == {"ready": False, "live": True}
        assert_refuses(await client.post(INFER, json=body()), 503, "is starting or stopping")

        gateway.scheduler.set_slots("dense", 1)
        assert (await client.get("/v2/health/ready")).status_code == 200
        gateway.scheduler.set_slots("dense", 0)
        assert (await client.get("/v2/health/ready")).status_code == 200, "int8 can answer"


async def test_a_gateway_that_drains_takes_no_more() -> None:
    gateway = in_process()
    gateway.dataplane.is_draining = True
    async with gateway.client() as client:
        assert_refuses(await client.get("/-/healthz"), 503, "starting or stopping")
        assert (await client.get("/v2/health/ready")).json() == {"ready": False, "live": True}
        assert (await client.get("/v2/health/live")).status_code == 200
        assert_refuses(await client.post(INFER, json=body()), 503, "starting or stopping")
