"""A whole gateway in one process, under what only a real listener, link and host can show."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from serving.gateway.gateway import Gateway
from serving.protocol.grpc.listener import CLOSE_DELAY_S
from tests.service import metric_value
from tests.serving.gateway.running_gateway import running_gateway
from tests.serving.gateway.two_inputs import TOKENS, answers, inputs
from tests.serving.gateway.two_inputs_client import Client, assert_close
from tests.serving.link.hosts import TIMEOUT_S, in_time
from tests.waiting import until
from variants.runtime.runner import Runner, Tensors

both = pytest.mark.parametrize("transport", ["http", "grpc"])

REFUSED = {False: "503", True: "StatusCode.UNAVAILABLE"}
"""By whether it is gRPC."""

LANES = 4
DRAIN_S = 5.0


class Hold:
    """Stands before the runners of a gateway: notes what they are given, and can keep it."""

    def __init__(self) -> None:
        self.calls: list[Tensors] = []
        self._open = threading.Event()  # each host has a thread of its own
        self._open.set()

    def wrap(self, run: Runner) -> Runner:
        def held(given: Tensors) -> dict[str, np.typing.NDArray[Any]]:
            self.calls.append(given)
            assert self._open.wait(TIMEOUT_S)
            return run(given)

        return held

    @property
    def samples(self) -> int:
        return sum(len(call["tokens"]) for call in self.calls)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep what comes until the end of the `with`."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


@pytest.fixture
def hold() -> Hold:
    return Hold()


@pytest.fixture
async def gateway(two_inputs_catalog: Path, hold: Hold) -> AsyncIterator[Gateway]:
    settings: dict[str, Any] = {"drain_s": DRAIN_S, "limits": {"lanes": LANES}}
    async with running_gateway(two_inputs_catalog, hold.wrap, **settings) as gateway:
        hold.calls.clear()  # the hosts were timed
        yield gateway


@pytest.fixture
async def client(transport: str, gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(transport, gateway) as client:
        yield client


@pytest.fixture
def seen(gateway: Gateway) -> Callable[..., Any]:
    """Wait until a metric of the gateway has a value."""
    return partial(has_come, gateway)


async def has_come(gateway: Gateway, value: float, name: str, **labels: str) -> None:
    """Wait until a metric has a value."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http_port}") as http:
        async with asyncio.timeout(TIMEOUT_S):
            while metric_value((await http.get("/metrics")).text, name, **labels) != value:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(gateway: Gateway, count: int) -> AsyncIterator[list[Client]]:
    """So many clients of each transport, each with a connection on which it was answered once."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(transport, gateway))
            for transport in ("http", "grpc")
            for _ in range(count)
        ]
        await asyncio.gather(*(client.infer(inputs(1, 4), "dense") for client in clients))
        yield clients


async def occupied(client: Client, hold: Hold) -> asyncio.Task[Any]:
    """Ask a host that holds what it is given, so that whatever follows waits."""
    before = hold.samples
    first = asyncio.create_task(client.infer(inputs(1, 2), "dense"))
    await until(lambda: hold.samples == before + 1)
    return first


@both
async def test_what_a_client_does_not_wait_for_is_saved(
    client: Client, hold: Hold, seen: Callable[..., Any]
) -> None:
    with hold.closed():
        first = await occupied(client, hold)
        left = asyncio.create_task(client.infer(inputs(5, 4), "dense"))
        await seen(1, "paretoserve_queue_length")
        left.cancel()
        await seen(5, "paretoserve_saved_samples_total")
        await seen(0, "paretoserve_queue_length")
        await seen(1, "paretoserve_requests_total", outcome="cancelled")
    await in_time(first)
    await in_time(client.infer(inputs(2, 4), "dense"))
    assert [len(call["tokens"]) for call in hold.calls] == [1, 2], "it was computed all the same"


@both
async def test_what_the_model_fails_at_fails_alone(
    client: Client, hold: Hold, seen: Callable[..., Any]
) -> None:
    given = [inputs(1 + seed % 2, 4, seed) for seed in range(40)]
    beyond = {**given[0], "tokens": given[0]["tokens"] + TOKENS}
    with hold.closed():
        first = await occupied(client, hold)
        asked = asyncio.gather(
            *(client.explained(one, "dense") for one in [*given[:20], beyond, *given[20:]]),
            return_exceptions=True,
        )
        await seen(41, "paretoserve_queue_length")
    found = await in_time(asked)
    await in_time(first)
    assert len(hold.calls[1]["tokens"]) == 61, "they did not share a batch"
    failed = found.pop(20)
    assert isinstance(failed, InferenceServerException)
    assert "inference failed; the cause was logged" in str(failed)
    assert failed.status() == ("StatusCode.INTERNAL" if client.is_grpc else "500")
    for own, one in zip(found, given, strict=True):
        assert not isinstance(own, BaseException)
        assert_close(own[0], answers("dense", one))
        assert own[1]["batch_size"] == len(one["tokens"])
        assert own[1]["compute_ms"] > 0
    (entry,) = (await statistics(client, "dense")).model_stats
    assert entry.inference_stats.success.count == 1 + 40
    assert entry.inference_stats.fail.count == 1


@both
async def test_only_so_many_different_shapes_wait_at_once(
    client: Client, hold: Hold, seen: Callable[..., Any]
) -> None:
    given = [inputs(1, 3 + number % LANES, number) for number in range(LANES + 1)]
    with hold.closed():
        first = await occupied(client, hold)
        asked = asyncio.gather(*(client.infer(one, "dense") for one in given))
        await seen(LANES + 1, "paretoserve_queue_length")
        with pytest.raises(InferenceServerException, match="too many different shapes") as caught:
            await in_time(client.infer(inputs(1, 3 + LANES), "dense"))
        assert caught.value.status() == (
            "StatusCode.RESOURCE_EXHAUSTED" if client.is_grpc else "429"
        )
    for own, one in zip(await in_time(asked), given, strict=True):
        assert_close(own, answers("dense", one))
    await in_time(first)


async def test_where_hosts_share_one_core_one_of_them_computes_at_a_time(
    two_inputs_catalog: Path, hold: Hold
) -> None:
    shared = {"cores": 1}
    async with running_gateway(
        two_inputs_catalog, hold.wrap, hosts=shared, drain_s=DRAIN_S
    ) as gateway:
        hold.calls.clear()
        async with Client("http", gateway) as client:
            with hold.closed():
                first = await occupied(client, hold)
                second = asyncio.create_task(client.infer(inputs(2, 4), "coarse"))
                await has_come(gateway, 1, "paretoserve_queue_length")
                assert hold.samples == 1, "the other host is free, its core is not"
            await in_time(first)
            assert_close(await in_time(second), answers("coarse", inputs(2, 4)))
        assert hold.samples == 3


async def test_both_transports_tell_the_same_statistics(gateway: Gateway) -> None:
    async with Client("http", gateway) as http, Client("grpc", gateway) as grpc:
        for client, samples, variant in ((http, 3, "dense"), (grpc, 2, "dense"), (http, 1, "")):
            await client.infer(inputs(samples, 4), variant)
        given = inputs(1, 4)
        with pytest.raises(InferenceServerException, match="inference failed"):
            await grpc.infer({**given, "tokens": given["tokens"] + TOKENS}, "coarse")
        told = {name: await statistics(http, name) for name in ("", "dense", "coarse")}
        assert told == {name: await statistics(grpc, name) for name in told}
    assert [own.version for own in told[""].model_stats] == ["dense", "coarse"]
    assert told["dense"].model_stats[0].inference_count == 6
    assert told["coarse"].model_stats[0].inference_stats.fail.count == 1
    assert told["coarse"].model_stats[0].memory_usage[0].byte_size == 1_000_000


async def test_closing_answers_what_was_accepted_and_refuses_what_comes_after(
    gateway: Gateway, hold: Hold, seen: Callable[..., Any]
) -> None:
    given = [inputs(1, 4, seed) for seed in range(31)]
    async with connected(gateway, 16) as clients, connected(gateway, 1) as later:
        with hold.closed():
            first = await occupied(clients.pop(), hold)
            asked = [
                asyncio.create_task(client.infer(one, "dense"))
                for client, one in zip(clients, given, strict=True)
            ]
            await seen(len(given), "paretoserve_queue_length")
            closing = asyncio.create_task(gateway.close())
            done, _ = await asyncio.wait([closing], timeout=2 * CLOSE_DELAY_S)
            assert not done, "it waits for what was accepted"
            for client in later:
                with pytest.raises(InferenceServerException, match="stopping") as caught:
                    await in_time(client.infer(given[0], "dense"))
                assert caught.value.status() == REFUSED[client.is_grpc]
        for task, one in zip(asked, given, strict=True):
            assert_close(await in_time(task), answers("dense", one))
        await in_time(asyncio.gather(first, closing))


async def test_who_asks_on_and_on_is_answered_until_told_that_it_closes(
    gateway: Gateway, hold: Hold
) -> None:
    outcomes: Counter[str] = Counter()
    given = inputs(1, 4)

    async def ask(client: Client) -> None:
        while True:
            try:
                found = await in_time(client.infer(given, "dense"))
            except InferenceServerException as error:
                outcomes[str(error.status())] += 1
                return
            except aiohttp.ClientConnectionError:
                outcomes["not connected"] += 1  # it was closed while idle
                return
            assert_close(found, answers("dense", given))
            outcomes["answered"] += 1

    async with connected(gateway, 16) as clients:
        asking = asyncio.gather(*(ask(client) for client in clients))
        await until(lambda: outcomes["answered"] >= 200)
        await in_time(gateway.close())
        await in_time(asking)
    answered = outcomes.pop("answered")
    assert hold.samples == answered + len(clients), "something was computed and not answered"
    assert outcomes["StatusCode.UNAVAILABLE"] == 16
    assert outcomes["503"] + outcomes["not connected"] == 16, outcomes


async def statistics(client: Client, variant: str) -> Any:
    """The statistics of the model or of one variant, as protobuf has them, whoever tells."""
    found = await client.triton.get_inference_statistics("words", variant)
    return found if client.is_grpc else ParseDict(found, pb.ModelStatisticsResponse())
