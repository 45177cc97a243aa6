"""One front door for the listeners of both transports."""

from __future__ import annotations

import asyncio

import grpc

from serving.protocol.front_door import REFUSAL
from tests.serving.builders import in_process
from tests.serving.protocol.calls import Gate
from tests.serving.protocol.door import Door
from tests.serving.protocol.grpc.calls import call, call_error, infer_request, serving
from tests.serving.protocol.http.sockets import SMALL, RawClient, listening, post
from tests.waiting import until


async def test_requests_inside_count_for_both_transports() -> None:
    gateway = in_process(gate := Gate())
    door = Door(limit=2)
    async with (
        listening(gateway, front_door=door.door) as http,
        serving(gateway, front_door=door.door) as channel,
    ):
        client = RawClient(http.port)
        await client.send(post(SMALL))
        waiting = asyncio.create_task(call(channel, "ModelInfer", infer_request()))
        await until(lambda: door.shedder.inside == 2)
        error = await call_error(channel, "ModelInfer", infer_request())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = RawClient(http.port)
        await other.send(post(SMALL))
        await other.read_until(REFUSAL.encode())
        assert door.refused == 2
        gate.open.set()
        await waiting
        await client.read_until(b"}]}")
        await until(lambda: door.shedder.inside == 0)
        await call(channel, "ModelInfer", infer_request())
        client.close()
        other.close()
