from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb

from serving.protocol.grpc.health import POLL_INTERVAL_S
from serving.protocol.grpc.service import SERVICE
from tests.serving.builders import InProcess, in_process
from tests.serving.protocol.grpc.calls import HANG_S, channel, listening, protocol, serving

HEALTH = "/grpc.health.v1.Health"
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
ALL = ["", SERVICE, "grpc.health.v1.Health"]


@pytest.fixture
async def gateway() -> InProcess:
    return in_process(slots=0)


@pytest.fixture
async def open_channel(gateway: InProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(gateway) as own:
        yield own


async def check(own: grpc.aio.Channel, service: str) -> Any:
    method = own.unary_unary(
        f"{HEALTH}/Check",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    return (await method(pb.HealthCheckRequest(service=service), timeout=HANG_S)).status


def watch(own: grpc.aio.Channel, service: str) -> Any:
    method = own.unary_stream(
        f"{HEALTH}/Watch",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    return method(pb.HealthCheckRequest(service=service), timeout=HANG_S)


@pytest.mark.parametrize("service", ALL)
async def test_a_check_tells_whether_requests_are_answered_now(
    gateway: InProcess, open_channel: grpc.aio.Channel, service: str
) -> None:
    assert await check(open_channel, service) == NOT_SERVING
    for variant in gateway.dataplane.profiles:
        gateway.scheduler.set_slots(variant, 1)
    assert await check(open_channel, service) == SERVING
    gateway.dataplane.is_draining = True
    assert await check(open_channel, service) == NOT_SERVING


async def test_a_check_of_a_service_that_is_not_here_is_refused(
    open_channel: grpc.aio.Channel,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(open_channel, "inference.Other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "unknown service 'inference.Other'"


async def test_a_watcher_is_told_of_every_change(
    gateway: InProcess, open_channel: grpc.aio.Channel
) -> None:
    watching = watch(open_channel, SERVICE)
    assert (await watching.read()).status == NOT_SERVING
    for variant in gateway.dataplane.profiles:
        gateway.scheduler.set_slots(variant, 1)
    assert (await watching.read()).status == SERVING
    gateway.dataplane.is_draining = True
    assert (await watching.read()).status == NOT_SERVING
    watching.cancel()


async def test_a_watcher_is_told_nothing_while_nothing_changes(
    open_channel: grpc.aio.Channel,
) -> None:
    watching = watch(open_channel, "inference.Other")
    assert (await watching.read()).status == pb.HealthCheckResponse.SERVICE_UNKNOWN
    more = asyncio.create_task(watching.read())
    done, _ = await asyncio.wait([more], timeout=2.5 * POLL_INTERVAL_S)
    assert not done
    watching.cancel()
    await asyncio.wait([more])


async def test_a_stopping_server_tells_its_watchers_and_lets_them_go() -> None:
    async with listening(protocol(in_process())) as listener, channel(listener.port) as own:
        watching = watch(own, "")
        assert (await watching.read()).status == SERVING
        listener.stop_accepting()
        assert (await watching.read()).status == NOT_SERVING
        assert await watching.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watch_of_garbage_is_refused(open_channel: grpc.aio.Channel) -> None:
    method: Any = open_channel.unary_stream(f"{HEALTH}/Watch")
    watching = method(b"\xff\xff", timeout=HANG_S)
    assert await watching.code() is grpc.StatusCode.INVALID_ARGUMENT
