"""Answered requests are freed at once, not by the garbage collector."""

from __future__ import annotations

import gc

from serving.dataplane.call import Call
from serving.protocol.http.inference_exchange import InferenceExchange
from tests.serving.builders import in_process
from tests.serving.protocol.http.sockets import SMALL, RawClient, listening, post


async def test_a_request_leaves_no_reference_cycle() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        gc.collect()
        gc.disable()
        try:
            for content in (SMALL, b"no JSON"):
                await raw.send(post(content))
                await raw.read_until(b"}")
            left = [each for each in gc.get_objects() if type(each) in (Call, InferenceExchange)]
        finally:
            gc.enable()
        raw.close()
    assert left == []
