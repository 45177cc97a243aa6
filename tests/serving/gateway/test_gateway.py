"""A whole gateway in one process: behaviour that needs a real listener, link and host."""

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
from tests.serving.protocol.http.sockets import http_client
from tests.waiting import until
from variants.runtime.runner import Runner, Tensors

both_transports = pytest.mark.parametrize("transport", ["http", "grpc"])

REFUSED = {False: "503", True: "StatusCode.UNAVAILABLE"}
"""The status of a refused request, by whether the client uses gRPC."""

LANES = 4
"""Limit of lanes of the gateway."""

DRAIN_S = 60.0


class RunnerGate:
    """A gate before the runners of a gateway's hosts. It records all calls."""

    def __init__(self) -> None:
        self.calls: list[Tensors] = []
        self._open = threading.Event()  # each host has its own thread
        self._open.set()

    def wrap(self, run: Runner) -> Runner:
        def run_when_open(tensors: Tensors) -> dict[str, np.typing.NDArray[Any]]:
            self.calls.append(tensors)
            assert self._open.wait(TIMEOUT_S)
            return run(tensors)

        return run_when_open

    @property
    def samples(self) -> int:
        """Number of samples in all calls."""
        return sum(len(call["tokens"]) for call in self.calls)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Hold all calls until the end of the `with`."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


@pytest.fixture
def gate() -> RunnerGate:
    return RunnerGate()


@pytest.fixture
async def gateway(two_inputs_catalog: Path, gate: RunnerGate) -> AsyncIterator[Gateway]:
    settings: dict[str, Any] = {"drain_s": DRAIN_S, "limits": {"lanes": LANES}}
    async with running_gateway(two_inputs_catalog, gate.wrap, **settings) as gateway:
        gate.calls.clear()  # discards the timing of the hosts
        yield gateway


@pytest.fixture
async def client(transport: str, gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(transport, gateway) as client:
        yield client


@pytest.fixture
def metric_becomes(gateway: Gateway) -> Callable[..., Any]:
    """A function that waits until a metric of the gateway has a value."""
    return partial(wait_for_metric, gateway)


async def wait_for_metric(gateway: Gateway, value: float, name: str, **labels: str) -> None:
    """Wait until a metric has a value."""
    async with http_client(gateway.http_port) as http:
        async with asyncio.timeout(TIMEOUT_S):
            while metric_value((await http.get("/metrics")).text, name, **labels) != value:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(gateway: Gateway, count: int) -> AsyncIterator[list[Client]]:
    """Yield `count` clients of each transport, each connected by one request."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(transport, gateway))
            for transport in ("http", "grpc")
            for _ in range(count)
        ]
        await asyncio.gather(*(client.infer(inputs(1, 4), "dense") for client in clients))
        yield clients


async def occupy(client: Client, gate: RunnerGate) -> asyncio.Task[Any]:
    """Send a request that the closed gate holds, so that all later requests are queued."""
    before = gate.samples
    first = asyncio.create_task(client.infer(inputs(1, 2), "dense"))
    await until(lambda: gate.samples == before + 1)
    return first


@both_transports
async def test_a_request_whose_client_disconnects_in_the_queue_is_not_computed(
    client: Client, gate: RunnerGate, metric_becomes: Callable[..., Any]
) -> None:
    with gate.closed():
        first = await occupy(client, gate)
        cancelled = asyncio.create_task(client.infer(inputs(5, 4), "dense"))
        await metric_becomes(1, "paretoserve_queue_length")
        cancelled.cancel()
        await metric_becomes(5, "paretoserve_saved_samples_total")
        await metric_becomes(0, "paretoserve_queue_length")
        await metric_becomes(1, "paretoserve_requests_total", outcome="cancelled")
    await in_time(first)
    await in_time(client.infer(inputs(2, 4), "dense"))
    assert [len(call["tokens"]) for call in gate.calls] == [1, 2], (
        "the cancelled request was computed"
    )


@both_transports
async def test_a_request_that_the_model_cannot_compute_fails_alone(
    client: Client, gate: RunnerGate, metric_becomes: Callable[..., Any]
) -> None:
    requests = [inputs(1 + seed % 2, 4, seed) for seed in range(40)]
    out_of_range = {**requests[0], "tokens": requests[0]["tokens"] + TOKENS}
    with gate.closed():
        first = await occupy(client, gate)
        pending = asyncio.gather(
            *(
                client.explained(request, "dense")
                for request in [*requests[:20], out_of_range, *requests[20:]]
            ),
            return_exceptions=True,
        )
        await metric_becomes(41, "paretoserve_queue_length")
    results = await in_time(pending)
    await in_time(first)
    assert len(gate.calls[1]["tokens"]) == 61, "they did not share a batch"
    failed = results.pop(20)
    assert isinstance(failed, InferenceServerException)
    assert "inference failed; the cause was logged" in str(failed)
    assert failed.status() == ("StatusCode.INTERNAL" if client.is_grpc else "500")
    for result, request in zip(results, requests, strict=True):
        assert not isinstance(result, BaseException)
        outputs, parameters = result
        assert_close(outputs, answers("dense", request))
        assert parameters["batch_size"] == len(request["tokens"])
        assert parameters["compute_ms"] > 0
    (entry,) = (await statistics(client, "dense")).model_stats
    assert entry.inference_stats.success.count == 1 + 40
    assert entry.inference_stats.fail.count == 1


@both_transports
async def test_the_number_of_different_shapes_in_the_queue_is_limited(
    client: Client, gate: RunnerGate, metric_becomes: Callable[..., Any]
) -> None:
    requests = [inputs(1, 3 + number % LANES, number) for number in range(LANES + 1)]
    with gate.closed():
        first = await occupy(client, gate)
        pending = asyncio.gather(*(client.infer(request, "dense") for request in requests))
        await metric_becomes(LANES + 1, "paretoserve_queue_length")
        with pytest.raises(InferenceServerException, match="too many different shapes") as caught:
            await in_time(client.infer(inputs(1, 3 + LANES), "dense"))
        assert caught.value.status() == (
            "StatusCode.RESOURCE_EXHAUSTED" if client.is_grpc else "429"
        )
    for outputs, request in zip(await in_time(pending), requests, strict=True):
        assert_close(outputs, answers("dense", request))
    await in_time(first)


async def test_hosts_that_share_one_core_compute_one_at_a_time(
    two_inputs_catalog: Path, gate: RunnerGate
) -> None:
    one_core = {"cores": 1}
    async with running_gateway(
        two_inputs_catalog, gate.wrap, hosts=one_core, drain_s=DRAIN_S
    ) as gateway:
        gate.calls.clear()
        async with Client("http", gateway) as client:
            with gate.closed():
                first = await occupy(client, gate)
                second = asyncio.create_task(client.infer(inputs(2, 4), "coarse"))
                await wait_for_metric(gateway, 1, "paretoserve_queue_length")
                assert gate.samples == 1, "two hosts computed on one core"
            await in_time(first)
            assert_close(await in_time(second), answers("coarse", inputs(2, 4)))
        assert gate.samples == 3


async def test_both_transports_return_the_same_statistics(gateway: Gateway) -> None:
    async with Client("http", gateway) as http, Client("grpc", gateway) as grpc:
        for client, samples, variant in ((http, 3, "dense"), (grpc, 2, "dense"), (http, 1, "")):
            await client.infer(inputs(samples, 4), variant)
        arrays = inputs(1, 4)
        with pytest.raises(InferenceServerException, match="inference failed"):
            await grpc.infer({**arrays, "tokens": arrays["tokens"] + TOKENS}, "coarse")
        reported = {name: await statistics(http, name) for name in ("", "dense", "coarse")}
        assert reported == {name: await statistics(grpc, name) for name in reported}
    assert [each.version for each in reported[""].model_stats] == ["dense", "coarse"]
    assert reported["dense"].model_stats[0].inference_count == 6
    assert reported["coarse"].model_stats[0].inference_stats.fail.count == 1
    assert reported["coarse"].model_stats[0].memory_usage[0].byte_size == 1_000_000


async def test_closing_answers_accepted_requests_and_refuses_later_ones(
    gateway: Gateway, gate: RunnerGate, metric_becomes: Callable[..., Any]
) -> None:
    requests = [inputs(1, 4, seed) for seed in range(31)]
    async with connected(gateway, 16) as clients, connected(gateway, 1) as later:
        with gate.closed():
            first = await occupy(clients.pop(), gate)
            accepted = [
                asyncio.create_task(client.infer(request, "dense"))
                for client, request in zip(clients, requests, strict=True)
            ]
            await metric_becomes(len(requests), "paretoserve_queue_length")
            closing = asyncio.create_task(gateway.close())
            done, _ = await asyncio.wait([closing], timeout=2 * CLOSE_DELAY_S)
            assert not done, "it closed before it had answered"
            for client in later:
                with pytest.raises(InferenceServerException, match="stopping") as caught:
                    await in_time(client.infer(requests[0], "dense"))
                assert caught.value.status() == REFUSED[client.is_grpc]
        for task, request in zip(accepted, requests, strict=True):
            assert_close(await in_time(task), answers("dense", request))
        await in_time(asyncio.gather(first, closing))


async def test_clients_that_send_continuously_are_answered_until_the_gateway_closes(
    gateway: Gateway, gate: RunnerGate
) -> None:
    outcomes: Counter[str] = Counter()
    arrays = inputs(1, 4)

    async def send_until_refused(client: Client) -> None:
        while True:
            try:
                outputs = await in_time(client.infer(arrays, "dense"))
            except InferenceServerException as error:
                outcomes[str(error.status())] += 1
                return
            except aiohttp.ClientConnectionError:
                outcomes["not connected"] += 1  # the connection was closed while idle
                return
            assert_close(outputs, answers("dense", arrays))
            outcomes["answered"] += 1

    async with connected(gateway, 16) as clients:
        sending = asyncio.gather(*(send_until_refused(client) for client in clients))
        await until(lambda: outcomes["answered"] >= 200)
        await in_time(gateway.close())
        await in_time(sending)
    answered = outcomes.pop("answered")
    assert gate.samples == answered + len(clients), "a request was computed but not answered"
    # grpc cancels calls that arrive while it stops.
    assert outcomes["StatusCode.UNAVAILABLE"] + outcomes["StatusCode.CANCELLED"] == 16, outcomes
    assert outcomes["503"] + outcomes["not connected"] == 16, outcomes


async def statistics(client: Client, variant: str) -> Any:
    """Return the statistics of the model or of one variant, as protobuf for both transports."""
    response = await client.triton.get_inference_statistics("words", variant)
    return response if client.is_grpc else ParseDict(response, pb.ModelStatisticsResponse())
