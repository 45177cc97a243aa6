"""Features of tritonclient's gRPC clients only: streams, callbacks, deadlines, compression."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import pytest
import tritonclient.grpc as triton

from tests.conformance.cases import MODEL, VARIANTS
from tests.conformance.triton import Client, connect
from tests.service import RunningService, images, metric_value

pytestmark = pytest.mark.cluster

COMPRESSIONS = [None, "gzip", "deflate"]
TIMEOUT_S = 60.0


@pytest.fixture
async def blocking(service: RunningService) -> AsyncIterator[Client]:
    async with connect(service, "grpc") as client:
        yield client


@pytest.fixture
async def asynchronous(service: RunningService) -> AsyncIterator[Client]:
    async with connect(service, "grpc.aio") as client:
        yield client


@pytest.mark.parametrize("client", ["grpc", "grpc.aio"], indirect=True)
@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_messages_may_be_compressed(
    service: RunningService, client: Client, compression: str | None
) -> None:
    pixels = images(20)
    answer = await client.infer(
        MODEL, client.input(pixels), model_version="dense", compression_algorithm=compression
    )
    service.check("dense", pixels, answer.logits)


@pytest.mark.parametrize("client", ["grpc", "grpc.aio"], indirect=True)
@pytest.mark.parametrize(("client_timeout", "deadlines"), [(None, 0), (TIMEOUT_S, 1)])
async def test_the_deadline_of_the_call_is_the_deadline_of_the_request(
    service: RunningService, client: Client, client_timeout: float | None, deadlines: int
) -> None:
    before = deadlines_met(service)
    tensor = client.input(images(1))
    await client.infer(MODEL, tensor, model_version="dense", client_timeout=client_timeout)
    assert deadlines_met(service) == before + deadlines


def test_a_callback_gets_each_response_and_each_error(
    service: RunningService, blocking: Client
) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def callback(result: Any, error: Any) -> None:
        done.put((result, error))

    batches = {str(number): images(1, number) for number in range(16)}
    for name, pixels in batches.items():
        blocking.raw.async_infer(
            MODEL, [blocking.input(pixels)], callback, model_version="dense", request_id=name
        )
    blocking.raw.async_infer("other", [blocking.input(images(1))], callback)
    statuses = []
    for _ in range(len(batches) + 1):
        result, error = done.get(timeout=TIMEOUT_S)
        if error is not None:
            statuses.append(error.status())
            continue
        answer = blocking.answer(result)
        service.check("dense", batches.pop(str(answer.id)), answer.logits)
    assert statuses == ["StatusCode.NOT_FOUND"]
    assert not batches


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_stream_answers_every_request_and_continues_after_an_error(
    service: RunningService, blocking: Client, compression: str | None
) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    blocking.raw.start_stream(
        lambda result, error: done.put((result, error)), compression_algorithm=compression
    )
    batches = {variant: images(number + 1) for number, variant in enumerate(VARIANTS)}
    for variant, pixels in batches.items():
        blocking.raw.async_stream_infer(
            "other", [blocking.input(pixels)], request_id=f"not {variant}"
        )
        blocking.raw.async_stream_infer(
            MODEL,
            [blocking.input(pixels)],
            model_version=variant,
            request_id=variant,
            parameters={"slo_latency_ms": 60_000},
            enable_empty_final_response=True,
        )
    errors = 0
    for _ in range(2 * len(VARIANTS)):
        result, error = done.get(timeout=TIMEOUT_S)
        if error is not None:
            assert "there is no model 'other'" in error.message()
            errors += 1
            continue
        answer = blocking.answer(result)
        assert answer.id == answer.variant
        service.check(answer.variant, batches.pop(answer.variant), answer.logits)
    blocking.raw.stop_stream()
    assert errors == len(VARIANTS)
    assert not batches
    assert done.empty()


async def test_an_asynchronous_stream_answers_every_request(
    service: RunningService, asynchronous: Client
) -> None:
    batches = [images(number % 4 + 1, number) for number in range(40)]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, pixels in enumerate(batches):
            yield {
                "model_name": MODEL,
                "model_version": "int8",
                "inputs": [asynchronous.input(pixels)],
                "outputs": [triton.InferRequestedOutput("logits")],
                "request_id": str(number),
            }

    numbers = set()
    async for result, error in asynchronous.raw.stream_infer(requests(), stream_timeout=TIMEOUT_S):
        assert error is None
        answer = asynchronous.answer(result)
        numbers.add(int(str(answer.id)))
        service.check("int8", batches[int(str(answer.id))], answer.logits)
    assert numbers == set(range(len(batches)))


def deadlines_met(service: RunningService) -> float:
    """Return the number of requests whose deadline dense has met."""
    with service.client() as client:
        text = client.get("/metrics").text
    return metric_value(text, "paretoserve_slo_attained_total", variant="dense")
