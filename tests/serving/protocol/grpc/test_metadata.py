"""Metadata that are given twice."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from serving.protocol.grpc.inference import STREAM
from tests.serving.builders import in_process
from tests.serving.protocol.grpc.calls import call, call_error, infer_request, serving

TWICE = "x-slo-latency-ms is given twice with different values"
CONTRADICTION = (("x-slo-latency-ms", "5"), ("x-slo-latency-ms", "500"))


async def test_a_contradiction_is_an_error_and_counted() -> None:
    gateway = in_process()
    async with serving(gateway) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request(), metadata=CONTRADICTION)
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert TWICE in caught.details()
    labels = {"model": "shirts", "error": "InvalidRequest"}
    assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 1


async def test_a_stream_with_a_contradiction_ends_with_an_error() -> None:
    async with serving(in_process()) as channel:
        stream: Any = channel.stream_stream(STREAM)(metadata=CONTRADICTION)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert TWICE in (caught.value.details() or "")


async def test_a_repeated_value_and_a_repeated_list_are_accepted() -> None:
    metadata = (*CONTRADICTION[1:], *CONTRADICTION[1:], ("x-tag", "a"), ("x-tag", "b"))
    async with serving(in_process()) as channel:
        await call(channel, "ModelInfer", infer_request(), metadata=metadata)


@pytest.mark.parametrize("text", ["1_000", "+5", ".5", "5.", "0x10", "007"])
async def test_a_number_is_what_json_calls_a_number(text: str) -> None:
    async with serving(in_process()) as channel:
        metadata = (("x-slo-latency-ms", text),)
        caught = await call_error(channel, "ModelInfer", infer_request(), metadata=metadata)
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"must be a number of milliseconds above 0, got '{text}'" in caught.details()
