"""Messages over the size limit, and the memory of rejected messages."""

from __future__ import annotations

import gc
import gzip
import tracemalloc
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.grpc.calls import (
    LIMIT,
    assert_answers,
    call,
    call_error,
    infer_request,
    listening,
    open_channel,
    protocol,
    serving,
)
from tests.waiting import until

MIB = 2**20


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(in_process()) as channel:
        yield channel


async def test_a_message_over_the_limit_is_rejected(channel: grpc.aio.Channel) -> None:
    caught = await call_error(channel, "ModelInfer", bytes(LIMIT + 1))
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.details()
    assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())


async def test_a_rejected_message_is_freed_without_garbage_collection() -> None:
    large = bytes([0xFF]) * 4 * MIB
    async with (
        listening(protocol(in_process()), max_message_bytes=5 * MIB) as listener,
        open_channel(listener.port) as channel,
    ):
        await call_error(channel, "ModelInfer", large)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(5):
                await call_error(channel, "ModelInfer", large)
            # The client may get the error before the handler of the server has returned.
            await until(lambda: tracemalloc.get_traced_memory()[0] < MIB)
        finally:
            tracemalloc.stop()
            gc.enable()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_message_over_the_limit_after_decompression_is_rejected(
    channel: grpc.aio.Channel, compression: grpc.Compression
) -> None:
    bomb = bytes(4 * LIMIT)
    assert len(gzip.compress(bomb)) < LIMIT
    caught = await call_error(channel, "ModelInfer", bomb, compression=compression)
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.details()
    assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())
