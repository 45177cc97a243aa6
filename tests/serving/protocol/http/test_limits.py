"""Rejections by state and size: large bodies, a full queue, starting and draining gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import (
    INFER,
    Gate,
    assert_answers,
    assert_error,
    body,
    chunks,
)
from tests.serving.protocol.http.sockets import SMALL, RawClient, listening, post


async def failing_body() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


LIMIT = 1_000


@pytest.fixture
async def limited_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose bodies may have `LIMIT` bytes."""
    async with in_process(max_body_bytes=LIMIT).client() as client:
        yield client


async def test_a_content_length_over_the_limit_is_rejected_before_the_body_is_read(
    limited_client: httpx.AsyncClient,
) -> None:
    headers = {"content-length": str(LIMIT + 1)}
    response = await limited_client.post(INFER, content=failing_body(), headers=headers)
    assert_error(response, 413, "the body is larger than 1000 bytes; send fewer samples")


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([LIMIT + 1], id="in one chunk"),
        pytest.param([LIMIT, 1], id="in the last chunk"),
        pytest.param([1] * (LIMIT + 1), id="in many small chunks"),
        pytest.param([LIMIT - 1, 2, LIMIT], id="in a middle chunk"),
    ],
)
async def test_a_streamed_body_over_the_limit_is_rejected(
    limited_client: httpx.AsyncClient, sizes: Sequence[int]
) -> None:
    response = await limited_client.post(INFER, content=chunks(*(b" " * size for size in sizes)))
    assert_error(response, 413, "the body is larger than 1000 bytes")


async def test_a_streamed_body_up_to_the_limit_is_accepted(
    limited_client: httpx.AsyncClient,
) -> None:
    whole = httpx.Request("POST", "http://gateway", json=body()).content.ljust(LIMIT)
    response = await limited_client.post(
        INFER, content=chunks(whole[:7], whole[7:500], b"", whole[500:])
    )
    assert_answers(response, "dense", pixels())


async def test_a_full_queue_rejects_and_a_passed_deadline_expires() -> None:
    gate = Gate()
    gateway = in_process(gate, max_queue=1)
    pinned = {"variant": "dense", "slo_latency_ms": 30}
    async with gateway.client() as client:
        running = asyncio.create_task(client.post(INFER, json=body()))
        await gate.entered.wait()
        queued = asyncio.create_task(client.post(INFER, json=body(parameters=pinned)))
        while not gateway.scheduler.queued:
            await asyncio.sleep(0)
        rejected = await client.post(INFER, json=body(parameters={"variant": "dense"}))
        assert_error(rejected, 429, "the queue is full with 1 requests")
        assert rejected.headers["retry-after"] == "1"
        assert_error(await queued, 504, "no variant could answer in time any more")
        metrics = (await client.get("/metrics")).text
        assert 'paretoserve_saved_samples_total{model="shirts"} 1.0' in metrics
        gate.open.set()
        assert_answers(await running, "dense", pixels())


async def test_the_service_is_not_ready_until_every_variant_has_been_up() -> None:
    gateway = in_process(slots=0)
    gateway.scheduler.set_slots("int8@1", 1)
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
        assert ready.json() == {"ready": False, "live": True, "reason": "the service is starting"}
        assert (await client.post(INFER, json=body())).status_code == 200, "int8 is up"
        pinned = body(parameters={"variant": "dense", "slo_latency_ms": 100})
        assert_error(await client.post(INFER, json=pinned), 503, "no replica of dense is alive")

        gateway.scheduler.set_slots("dense@1", 1)
        assert (await client.get("/v2/health/ready")).status_code == 200
        gateway.scheduler.set_slots("dense@1", 0)
        assert (await client.get("/v2/health/ready")).status_code == 200, "int8 is up"


async def test_nothing_says_ready_while_no_variant_is_alive_nor_hides_the_cause() -> None:
    gateway = in_process()
    async with gateway.client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
        for key in ("dense@1", "int8@1"):
            gateway.scheduler.set_slots(key, 0)
        gateway.dataplane.readiness.set_failures({"int8@1": "model.onnx is missing"})
        for path in ("/-/healthz", "/v2/health/ready", "/v2/models/shirts/ready"):
            response = await client.get(path)
            assert response.status_code == 503, path
            assert "no replica is alive; int8: model.onnx is missing" in response.text
        variant = await client.get("/v2/models/shirts/versions/int8/ready")
        assert variant.json()["reason"] == "model.onnx is missing"
        index = (await client.post("/v2/repository/index")).json()
        assert {each["version"]: each["reason"] for each in index} == {
            "dense": "no replica is alive",
            "int8": "model.onnx is missing",
        }
        hasty = body(parameters={"slo_latency_ms": 50})
        response = await client.post(INFER, json=hasty)
        assert_error(response, 503, "no replica of dense or int8 is alive")
        assert response.headers["retry-after"] == "1"
        gateway.scheduler.set_slots("int8@1", 1)
        for path in ("/-/healthz", "/v2/health/ready", "/v2/models/shirts/ready"):
            assert (await client.get(path)).status_code == 200, path


async def test_a_draining_gateway_rejects_requests() -> None:
    gateway = in_process()
    gateway.dataplane.readiness.is_draining = True
    async with gateway.client() as client:
        assert_error(await client.get("/-/healthz"), 503, "the service is stopping")
        ready = await client.get("/v2/health/ready")
        reason = "the service is stopping"
        assert ready.json() == {"ready": False, "live": True, "reason": reason}
        assert (await client.get("/v2/health/live")).status_code == 200
        assert_error(await client.post(INFER, json=body()), 503, "the service is stopping")


async def test_a_client_that_is_still_sending_gets_the_response_before_the_connection_closes() -> (
    None
):
    async with listening(in_process(max_body_bytes=LIMIT)) as listener:
        raw = RawClient(listener.port)
        head = post(b" " * 20_000_000).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        await raw.send(head)
        assert (await raw.read()).startswith(b"HTTP/1.1 413")
        raw.close()


async def test_a_client_that_did_not_wait_for_100_continue_keeps_its_connection() -> None:
    gate = Gate()
    async with listening(in_process(gate)) as listener:
        raw = RawClient(listener.port)
        expecting = post(SMALL).replace(b"\r\n", b"\r\nexpect: 100-continue\r\n", 1)
        await raw.send(post(SMALL) + expecting)
        await gate.entered.wait()
        gate.open.set()
        await raw.read_until(b'"model_name"', times=2)
        await raw.send(post(SMALL))
        await raw.read_until(b'"model_name"')
        raw.close()
