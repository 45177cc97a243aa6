from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb

from serving.protocol.grpc.call import SERVICE
from serving.protocol.grpc.health import SERVICE as HEALTH_SERVICE
from serving.protocol.grpc.health import Health
from tests.serving.builders import InProcess, in_process
from tests.serving.protocol.grpc.calls import (
    HANG_S,
    HEALTH_POLL_INTERVAL_S,
    listening,
    open_channel,
    protocol,
    serving,
)

HEALTH = f"/{HEALTH_SERVICE}"
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
ALL = ["", SERVICE, HEALTH_SERVICE]


@pytest.fixture
async def gateway() -> InProcess:
    return in_process(slots=0)


@pytest.fixture
async def channel(gateway: InProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(gateway) as channel:
        yield channel


async def check(channel: grpc.aio.Channel, service: str) -> Any:
    method = channel.unary_unary(
        f"{HEALTH}/Check",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    return (await method(pb.HealthCheckRequest(service=service), timeout=HANG_S)).status


def watch(channel: grpc.aio.Channel, service: str) -> Any:
    method = channel.unary_stream(
        f"{HEALTH}/Watch",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    return method(pb.HealthCheckRequest(service=service), timeout=HANG_S)


@pytest.mark.parametrize("service", ALL)
async def test_a_check_returns_the_current_readiness(
    gateway: InProcess, channel: grpc.aio.Channel, service: str
) -> None:
    assert await check(channel, service) == NOT_SERVING
    for profile in gateway.dataplane.profiles.values():
        gateway.scheduler.set_slots(profile.key, 1)
    assert await check(channel, service) == SERVING
    gateway.dataplane.readiness.is_draining = True
    assert await check(channel, service) == NOT_SERVING


async def test_a_check_of_an_unknown_service_is_not_found(
    channel: grpc.aio.Channel,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(channel, "inference.Other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "unknown service 'inference.Other'"


async def test_a_watcher_gets_every_change(gateway: InProcess, channel: grpc.aio.Channel) -> None:
    watching = watch(channel, SERVICE)
    assert (await watching.read()).status == NOT_SERVING
    for profile in gateway.dataplane.profiles.values():
        gateway.scheduler.set_slots(profile.key, 1)
    assert (await watching.read()).status == SERVING
    gateway.dataplane.readiness.is_draining = True
    assert (await watching.read()).status == NOT_SERVING
    watching.cancel()


async def test_a_watcher_gets_no_message_without_a_change(
    channel: grpc.aio.Channel,
) -> None:
    watching = watch(channel, "inference.Other")
    assert (await watching.read()).status == pb.HealthCheckResponse.SERVICE_UNKNOWN
    more = asyncio.create_task(watching.read())
    done, _ = await asyncio.wait([more], timeout=5 * HEALTH_POLL_INTERVAL_S)
    assert not done
    watching.cancel()
    await asyncio.wait([more])


async def test_a_stopping_server_notifies_its_watchers_and_ends_their_calls() -> None:
    async with (
        listening(protocol(in_process())) as listener,
        open_channel(listener.port) as channel,
    ):
        watching = watch(channel, "")
        assert (await watching.read()).status == SERVING
        listener.stop_accepting()
        assert (await watching.read()).status == NOT_SERVING
        assert await watching.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watcher_is_notified_of_a_stop_during_the_message_before() -> None:
    health = Health(lambda: True, [], poll_interval_s=HEALTH_POLL_INTERVAL_S)
    sent: list[int] = []

    class Context:
        async def write(self, message: bytes) -> None:
            sent.append(pb.HealthCheckResponse.FromString(message).status)
            health.stop()

        async def abort(self, code: grpc.StatusCode, details: str) -> None:
            raise grpc.aio.AbortError(code, details)

    handler: Any = health.services()[HEALTH_SERVICE]["Watch"]
    with pytest.raises(grpc.aio.AbortError):
        await asyncio.wait_for(handler.unary_stream(b"", Context()), HANG_S)
    assert sent == [SERVING, NOT_SERVING]


async def test_a_watch_with_an_invalid_message_is_rejected(channel: grpc.aio.Channel) -> None:
    method: Any = channel.unary_stream(f"{HEALTH}/Watch")
    watching = method(b"\xff\xff", timeout=HANG_S)
    assert await watching.code() is grpc.StatusCode.INVALID_ARGUMENT
