"""The RPC ModelInfer: tensors, parameters, metadata, deadlines, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from serving.dataplane.delivery import Delivery
from serving.experiment.assignment import Arm, Experiment
from serving.protocol.grpc.call import SERVICE
from tests.serving.builders import InProcess, answers, in_process, pixels, profile
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    assert_answers,
    call,
    call_error,
    infer_request,
    listening,
    outputs,
    protocol,
    serving,
    value,
    with_parameters,
)
from tests.waiting import until


@pytest.fixture
async def gateway() -> InProcess:
    return in_process()


@pytest.fixture
async def channel(gateway: InProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(gateway) as channel:
        yield channel


@pytest.mark.parametrize("samples", [1, 7, 64])
async def test_raw_tensors_are_answered(channel: grpc.aio.Channel, samples: int) -> None:
    array = pixels(samples)
    assert_answers(await call(channel, "ModelInfer", infer_request(array)), "dense", array)


async def test_typed_contents_are_answered(channel: grpc.aio.Channel) -> None:
    message = infer_request()
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend(pixels().ravel().tolist())
    assert_answers(await call(channel, "ModelInfer", message), "dense", pixels())


async def test_the_response_explains_the_choice(channel: grpc.aio.Channel) -> None:
    message = with_parameters(
        infer_request(id="a-1"), slo_latency_ms=60_000, client_parameter="kept"
    )
    answer = await call(channel, "ModelInfer", message)
    explanation = {name: value(each) for name, each in answer.parameters.items()}
    assert explanation.pop("latency_ms") >= explanation.pop("queue_ms") >= 0
    assert explanation.pop("predicted_latency_ms") > 0
    assert explanation == {
        "client_parameter": "kept",
        "variant": "dense",
        "generation": 1,
        "reason": "most accurate variant that qualifies",
        "accuracy": 0.9,
        "compute_ms": 0.1,
        "batch_size": 1,
        "deadline_met": True,
    }
    assert answer.id == "a-1"


async def test_requested_outputs_are_returned_in_their_order(
    channel: grpc.aio.Channel,
) -> None:
    for names in (["label"], ["label", "logits"], ["logits", "label"]):
        message = infer_request()
        for name in names:
            message.outputs.add(name=name)
        answer = await call(channel, "ModelInfer", message)
        assert list(outputs(answer)) == names


@pytest.mark.parametrize(
    ("fields", "parameters", "metadata", "variant"),
    [
        pytest.param({}, {}, {}, "dense", id="default: the most accurate"),
        pytest.param({"model_version": "int8"}, {}, {}, "int8", id="a version"),
        pytest.param({}, {"variant": "int8"}, {}, "int8", id="a parameter"),
        pytest.param({}, {}, {"x-slo-variant": "int8"}, "int8", id="metadata"),
        pytest.param(
            {"model_version": "dense"},
            {},
            {"x-slo-variant": "int8"},
            "dense",
            id="a version beside metadata",
        ),
        pytest.param({}, {}, {"x-slo-variant-bin": b"int8"}, "dense", id="binary metadata"),
    ],
)
async def test_a_variant_can_be_pinned(
    channel: grpc.aio.Channel,
    fields: dict[str, Any],
    parameters: dict[str, str],
    metadata: dict[str, str],
    variant: str,
) -> None:
    message = with_parameters(infer_request(**fields), **parameters)
    answer = await call(channel, "ModelInfer", message, metadata=tuple(metadata.items()))
    assert_answers(answer, variant, pixels())


async def test_metadata_contain_the_unit_of_an_experiment() -> None:
    arms = (
        Arm(name="a", target="router", weight=1),
        Arm(name="b", target="int8", weight=1),
    )
    experiment = Experiment(name="half", arms=arms)
    async with serving(in_process(experiment=experiment)) as channel:
        for i in range(8):
            metadata = (("x-experiment-unit", f"user-{i}"),)
            answer = await call(channel, "ModelInfer", infer_request(), metadata=metadata)
            assert answer.parameters["arm"].string_param == experiment.assign(f"user-{i}").name


async def test_the_deadline_of_the_call_is_the_deadline_of_the_request() -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with serving(gateway) as channel:
        running = asyncio.create_task(call(channel, "ModelInfer", infer_request()))
        await gate.entered.wait()
        message = with_parameters(infer_request(), variant="dense")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "ModelInfer", message, timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: gateway.scheduler.queued == 0)
        gate.open.set()
        assert_answers(await running, "dense", pixels())


async def test_a_call_without_a_deadline_sets_none(channel: grpc.aio.Channel) -> None:
    answer = await call(channel, "ModelInfer", infer_request(), timeout=None)
    assert answer.parameters["deadline_met"].bool_param


@pytest.mark.parametrize("timeout_s", [0.0, 60.0])
async def test_a_call_that_times_out_before_any_answer_is_ended_as_such(timeout_s: float) -> None:
    gateway = in_process(profiles={"dense": profile("dense", latencies_s={1: 1e6})})
    async with serving(gateway) as channel:
        error = await call_error(channel, "ModelInfer", infer_request(), timeout=timeout_s)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_unattainable_deadline_is_rejected_immediately() -> None:
    slow = {"dense": profile("dense", latencies_s={1: 1e6}), "int8": profile("int8")}
    message = with_parameters(infer_request(), variant="dense", slo_latency_ms=50_000.0)
    async with serving(in_process(profiles=slow)) as channel:
        error = await call_error(channel, "ModelInfer", message, timeout=60)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no qualifying variant answers within" in error.details()


async def test_a_cancelled_call_leaves_the_queue_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    gateway = in_process(gate)
    async with serving(gateway) as channel:
        running = asyncio.create_task(call(channel, "ModelInfer", infer_request()))
        await gate.entered.wait()
        message = with_parameters(infer_request(), variant="dense")
        waiting = asyncio.create_task(call(channel, "ModelInfer", message))
        await until(lambda: gateway.scheduler.queued == 1)
        waiting.cancel()
        await until(lambda: gateway.scheduler.queued == 0)
        gate.open.set()
        assert_answers(await running, "dense", pixels())
    assert not caplog.records


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_the_client_of_triton_gets_a_response(
    gateway: InProcess, compression: str | None
) -> None:
    tensor = triton.InferInput("pixels", [3, 4], "FP32")
    tensor.set_data_from_numpy(pixels(3))
    async with listening(protocol(gateway)) as listener:
        client = triton_aio.InferenceServerClient(f"127.0.0.1:{listener.port}")
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("shirts", "int8")
        result = await client.infer(
            "shirts",
            [tensor],
            outputs=[triton.InferRequestedOutput("label")],
            request_id="a-1",
            priority=1,
            timeout=60_000_000,
            client_timeout=60,
            compression_algorithm=compression,
        )
        assert result.get_response().id == "a-1"
        assert result.as_numpy("logits") is None
        expected = answers("dense", {"pixels": pixels(3)})
        np.testing.assert_array_equal(result.as_numpy("label"), expected["label"])
        await client.close()


async def test_the_time_to_write_each_answer_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    took_s: list[float] = []
    monkeypatch.setattr(Delivery, "record_written", lambda _, now, s: took_s.append(s))
    async with serving(in_process()) as channel:
        for _ in range(2):
            await call(channel, "ModelInfer", infer_request())
        await call_error(channel, "ModelInfer", infer_request(model_name="hats"))
        stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        messages = [infer_request(), infer_request(model_name="hats"), infer_request()]
        responses = stream((message.SerializeToString() for message in messages), timeout=HANG_S)
        assert len([response async for response in responses]) == 3
    assert len(took_s) == 4  # the channel is closed: all calls have ended
    assert all(0 < each < HANG_S for each in took_s)
