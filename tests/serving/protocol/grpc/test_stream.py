from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.protocol.grpc.inference import STREAM
from tests.serving.builders import InProcess, in_process, multiply, pixels
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    LIMIT,
    assert_answers,
    call,
    infer_request,
    listening,
    open_channel,
    protocol,
    serving,
    with_parameters,
)
from tests.waiting import until


@asynccontextmanager
async def streaming(gateway: InProcess, **settings: Any) -> AsyncIterator[Any]:
    """Open a stream to a server of this gateway."""
    async with serving(gateway, **settings) as channel:
        yield open_stream(channel)


def open_stream(channel: grpc.aio.Channel, **settings: Any) -> Any:
    method: Any = channel.stream_stream(
        STREAM, response_deserializer=pb.ModelStreamInferResponse.FromString
    )
    return method(**{"timeout": HANG_S, **settings})


async def send(stream: Any, *messages: Any) -> None:
    for message in messages:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        await stream.write(raw)


class LastFirst:
    """A `run` that waits for `count` batches and finishes the last one first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.gates: list[asyncio.Event] = []

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        gate = asyncio.Event()
        self.gates.append(gate)
        if len(self.gates) == self.count:
            gate.set()
        await gate.wait()
        ran = await multiply(variant, requests)
        if (index := self.gates.index(gate)) > 0:
            self.gates[index - 1].set()
        return ran


def protocol_tasks() -> set[str]:
    return {repr(task.get_coro()) for task in asyncio.all_tasks() if "GrpcInference" in repr(task)}


async def test_responses_are_in_order_and_then_the_stream_ends() -> None:
    async with streaming(in_process()) as stream:
        await send(stream, *(infer_request(pixels(1, i), id=str(i)) for i in range(10)))
        await stream.done_writing()
        for i in range(10):
            answer = await stream.read()
            assert answer.error_message == ""
            assert answer.infer_response.id == str(i)
            assert_answers(answer.infer_response, "dense", pixels(1, i))
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_the_requests_of_one_stream_share_a_batch() -> None:
    gate = Gate()
    gateway = in_process(gate)
    pinned = [with_parameters(infer_request(), variant="dense") for _ in range(9)]
    async with streaming(gateway) as stream:
        await send(stream, pinned[0])
        await gate.entered.wait()
        await send(stream, *pinned[1:])
        await until(lambda: gateway.scheduler.queued == 8)
        gate.open.set()
        sizes = [
            (await stream.read()).infer_response.parameters["batch_size"].int64_param
            for _ in pinned
        ]
    assert sizes == [1] + [8] * 8


async def test_responses_keep_their_order_if_the_last_is_done_first() -> None:
    turns = LastFirst(3)
    gateway = in_process(turns, slots=3, max_batch=1)
    async with streaming(gateway) as stream:
        for i in range(3):
            message = infer_request(pixels(1, i), id=str(i))
            await send(stream, with_parameters(message, variant="dense"))
            await until(lambda i=i: len(turns.gates) == i + 1)  # type: ignore[misc]
        for i in range(3):
            assert (await stream.read()).infer_response.id == str(i)


async def test_an_error_affects_only_its_request() -> None:
    gateway = in_process()
    async with streaming(gateway) as stream:
        await send(
            stream,
            infer_request(id="good"),
            infer_request(id="bad", model_name="hats"),
            b"\xff\xff",
            infer_request(id="last"),
        )
        assert_answers((await stream.read()).infer_response, "dense", pixels())
        bad, invalid = await stream.read(), await stream.read()
        assert bad.error_message == "there is no model 'hats'; there is 'shirts'"
        assert bad.infer_response.id == "bad"
        assert invalid.error_message.startswith("the message is not a valid")
        last = (await stream.read()).infer_response
        assert last.id == "last"
        assert_answers(last, "dense", pixels())
    for error in ("ModelNotFound", "InvalidRequest"):
        labels = {"model": "shirts", "error": error}
        assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 1


async def test_the_cause_of_an_internal_error_is_not_sent_and_the_stream_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run_without_outputs(
        variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        return BatchResult([{} for _ in requests], compute_s=0.0)

    message = infer_request(id="a")
    message.outputs.add(name="label")
    async with streaming(in_process(run_without_outputs)) as stream:
        for _ in range(2):
            await send(stream, message)
            answer = await stream.read()
            assert answer.error_message == "internal error; the cause was logged"
            assert answer.infer_response.id == "a"
    assert "KeyError: 'label'" in caplog.text


@pytest.mark.parametrize(("requested", "is_sent"), [(True, True), (False, False), (None, False)])
async def test_the_response_is_marked_as_final_if_requested(
    requested: bool | None, is_sent: bool
) -> None:
    message = infer_request()
    if requested is not None:
        with_parameters(message, triton_enable_empty_final_response=requested)
    async with streaming(in_process()) as stream:
        await send(stream, message)
        parameters = (await stream.read()).infer_response.parameters
    assert ("triton_final_response" in parameters) is is_sent
    assert parameters["triton_final_response"].bool_param is is_sent
    assert "triton_enable_empty_final_response" not in parameters


async def test_a_stream_has_a_limited_number_of_requests_in_progress() -> None:
    gate = Gate()
    gateway = in_process(gate)
    pinned = [with_parameters(infer_request(id=str(i)), variant="dense") for i in range(9)]
    async with serving(gateway, max_stream_requests=3) as channel:
        stream = open_stream(channel)
        await send(stream, pinned[0])
        await gate.entered.wait()
        await send(stream, *pinned[1:])
        await until(lambda: gateway.scheduler.queued == 2)
        # One of the three runs and two are queued. Calls beside the stream are all read.
        others = [
            asyncio.create_task(call(channel, "ModelInfer", message)) for message in pinned[:5]
        ]
        await until(lambda: gateway.scheduler.queued == 7)
        gate.open.set()
        assert [(await stream.read()).infer_response.id for _ in pinned] == list("012345678")
        await asyncio.gather(*others)


@pytest.mark.parametrize(
    ("max_stream_requests", "queued"),
    [pytest.param(64, 4, id="all requests read"), pytest.param(3, 2, id="more requests to read")],
)
async def test_a_cancelled_stream_cancels_its_requests_and_tasks(
    max_stream_requests: int, queued: int
) -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with streaming(gateway, max_stream_requests=max_stream_requests) as stream:
        await send(stream, infer_request())
        await gate.entered.wait()
        await send(stream, *(with_parameters(infer_request(), variant="dense") for _ in range(4)))
        await until(lambda: gateway.scheduler.queued == queued)
        assert protocol_tasks()
        stream.cancel()
        await until(lambda: gateway.scheduler.queued == 0)
        await until(lambda: not protocol_tasks())
        gate.open.set()


async def test_a_stream_whose_requests_are_all_read_ends_normally_at_the_stop() -> None:
    gate = Gate()
    async with (
        listening(protocol(in_process(gate))) as listener,
        open_channel(listener.port) as channel,
    ):
        stream = open_stream(channel)
        await send(stream, infer_request())
        await stream.done_writing()
        await gate.entered.wait()
        await until(lambda: not any("_read" in task for task in protocol_tasks()))
        listener.stop_accepting()
        gate.open.set()
        assert_answers((await stream.read()).infer_response, "dense", pixels())
        assert await stream.code() is grpc.StatusCode.OK


async def test_the_deadline_of_a_stream_is_the_deadline_of_its_requests() -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with serving(gateway) as channel:
        await call(channel, "ServerLive", pb.ServerLiveRequest())  # the connection is open
        stream = open_stream(channel, timeout=0.5)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it is over
            await send(
                stream, *(with_parameters(infer_request(), variant="dense") for _ in range(3))
            )
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: gateway.scheduler.queued == 0)
        await until(lambda: not protocol_tasks())
        gate.open.set()


async def test_a_message_over_the_limit_ends_the_stream() -> None:
    async with streaming(in_process()) as stream:
        await send(stream, infer_request())
        assert_answers((await stream.read()).infer_response, "dense", pixels())
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may end before all is sent
            await send(stream, bytes(LIMIT + 1))
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: not protocol_tasks())


async def test_a_stopping_service_answers_requests_that_it_has_read_and_ends_the_stream() -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with listening(protocol(gateway)) as listener, open_channel(listener.port) as channel:
        busy, idle = open_stream(channel), open_stream(channel)
        await send(idle, infer_request(model_name="hats"))
        assert (await idle.read()).error_message
        await send(busy, infer_request(id="read"))
        await gate.entered.wait()
        listener.stop_accepting()
        assert await idle.code() is grpc.StatusCode.UNAVAILABLE
        assert await idle.details() == "the service is stopping"
        gate.open.set()
        assert (await busy.read()).infer_response.id == "read"
        assert await busy.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_client_of_triton_can_stream() -> None:
    tensor = triton.InferInput("pixels", [1, 4], "FP32")
    tensor.set_data_from_numpy(pixels())

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(5):
            name = "hats" if i == 2 else "shirts"
            yield {"model_name": name, "inputs": [tensor], "request_id": str(i)}

    async with listening(protocol(in_process())) as listener:
        client = triton_aio.InferenceServerClient(f"127.0.0.1:{listener.port}")
        answers = [answer async for answer in client.stream_infer(requests())]
        await client.close()
    assert [str(error) for _, error in answers if error] == [
        "there is no model 'hats'; there is 'shirts'"
    ]
    assert [result.get_response().id for result, _ in answers if result] == list("0134")
