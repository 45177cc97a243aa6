"""Two gateways that use the same hosts, each with its own queue and without coordination."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from serving.gateway.gateway import Gateway
from tests.service import metric_value
from tests.serving.gateway.running_gateway import gateway_for, running_hosts
from tests.serving.gateway.two_inputs import ACCURACY, Arrays, answers, inputs
from tests.serving.gateway.two_inputs_client import DATATYPES, assert_close
from tests.serving.link.hosts import TIMEOUT_S, in_time
from tests.waiting import GIVE_UP_S, until
from variants.runtime.runner import Runner, Tensors

REQUESTS = 200
"""Requests to each gateway."""

CONCURRENT = 24
"""Concurrent requests to each gateway."""

ANSWERED, LATE, CLOSING = HTTPStatus.OK, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE
ALLOWED = {ANSWERED, HTTPStatus.TOO_MANY_REQUESTS, LATE}

HELD_TOKENS = 7
"""A host process never answers inputs of at least this number of tokens."""

ROOT = Path(__file__).parents[3]

HOST_SCRIPT = """
import sys, threading
from pathlib import Path
from serving.link.host import HostSocket
from variants.catalog.catalog import Catalog
from variants.runtime.runner import load_runner

folder, name = Path(sys.argv[1]), sys.argv[2]
catalog = Catalog.load(folder)
runner = load_runner(folder, catalog.model, catalog.variants[name], threads=1)

def run(tensors):
    if tensors["tokens"].shape[1] >= int(sys.argv[3]):
        print("held", flush=True)
        threading.Event().wait()
    return runner(tensors)

print(HostSocket(run).address, flush=True)
sys.stdin.read()
"""


@dataclass
class SlowRunners:
    """Slows runners down to about the time of a small network, and counts samples by variant."""

    samples: Counter[str] = field(default_factory=Counter)

    def wrap(self, run: Runner) -> Runner:
        numbers = np.random.default_rng(0).random(40_000)
        (variant,) = (
            name
            for name in ACCURACY
            if np.allclose(run(inputs(1, 4))["sums"], answers(name, inputs(1, 4))["sums"])
        )

        def run_slowly(tensors: Tensors) -> dict[str, np.typing.NDArray[Any]]:
            np.sort(numbers)  # takes the time
            self.samples[variant] += len(tensors["tokens"])
            return run(tensors)

        return run_slowly


class Client:
    """A client of one gateway that checks each answer."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.http_port}",
            timeout=GIVE_UP_S,
            verify=False,
        )
        self.answered: Counter[str] = Counter()
        """Answered samples by variant."""

    async def infer(self, arrays: Arrays, **parameters: Any) -> int:
        """Send a request and return the status; fail if an answer is wrong."""
        tensors = [
            {
                "name": name,
                "datatype": DATATYPES[name],
                "shape": array.shape,
                "data": array.reshape(-1).tolist(),
            }
            for name, array in arrays.items()
        ]
        response = await self.http.post(
            "/v2/models/words/infer", json={"inputs": tensors, "parameters": parameters}
        )
        if response.status_code == ANSWERED:
            document = response.json()
            variant = document["model_version"]
            assert variant == parameters.get("variant", variant)
            self.answered[variant] += len(arrays["tokens"])
            outputs = {
                output["name"]: np.reshape(output["data"], output["shape"])
                for output in document["outputs"]
            }
            assert_close(outputs, answers(variant, arrays))
        return response.status_code

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric of the gateway."""
        return metric_value((await self.http.get("/metrics")).text, name, **labels)

    async def metric_becomes(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric of the gateway has a value."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.metric(name, **labels) != value:
                await asyncio.sleep(0.01)

    async def is_variant_ready(self, variant: str) -> bool:
        response = await self.http.get(f"/v2/models/words/versions/{variant}/ready")
        return response.status_code == ANSWERED


@asynccontextmanager
async def two_gateways(
    catalog: Path, addresses: dict[str, str], **limits: int
) -> AsyncIterator[list[Client]]:
    """Yield clients of two gateways that use the hosts at these addresses."""
    async with AsyncExitStack() as stack:
        settings = {"limits": limits, "drain_s": 60.0}
        gateways = [
            await stack.enter_async_context(gateway_for(catalog, addresses, **settings))
            for _ in range(2)
        ]
        clients = [Client(gateway) for gateway in gateways]
        for client in clients:
            await stack.enter_async_context(client.http)
        yield clients


@contextmanager
def host_process(catalog: Path, variant: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a host in its own process; yield the process and the address."""
    command = [sys.executable, "-c", HOST_SCRIPT, str(catalog), variant, str(HELD_TOKENS)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_equal_load_is_answered_at_about_equal_rates(two_inputs_catalog: Path) -> None:
    random = np.random.default_rng(0)
    requests: list[tuple[Arrays, dict[str, Any]]] = [
        (
            inputs(1 + number % 4, 4, number),
            {"slo_latency_ms": int(random.choice([5_000, 20_000, 60_000]))}
            | [{}, {"variant": "dense"}, {"variant": "coarse"}][number % 3],
        )
        for number in range(REQUESTS)
    ]
    runners = SlowRunners()
    statuses: list[Counter[int]] = [Counter(), Counter()]
    order: list[int] = []
    with running_hosts(two_inputs_catalog, runners.wrap) as addresses:
        async with two_gateways(two_inputs_catalog, addresses, batch_size=8) as clients:
            runners.samples.clear()  # discards the timing of the hosts

            async def send_all(place: int, left: Iterator[tuple[Arrays, dict[str, Any]]]) -> None:
                for arrays, parameters in left:
                    status = await clients[place].infer(arrays, **parameters)
                    statuses[place][status] += 1
                    if status == ANSWERED:
                        order.append(place)

            left = [iter(requests), iter(requests)]
            await asyncio.gather(
                *(send_all(place, left[place]) for _ in range(CONCURRENT) for place in (0, 1))
            )
            for client, counted in zip(clients, statuses, strict=True):
                assert counted.keys() <= ALLOWED
                assert counted.total() == REQUESTS
                assert client.answered.keys() == ACCURACY.keys(), "a gateway did not use every host"
                for variant, samples in client.answered.items():
                    computed = await client.metric("paretoserve_samples_total", variant=variant)
                    assert computed == samples
    assert runners.samples == clients[0].answered + clients[1].answered
    for answered in (Counter(order), Counter(order[: len(order) // 2])):
        assert min(answered[0], answered[1]) * 3 >= max(answered.values()), statuses


async def test_when_one_gateway_closes_the_other_is_not_affected(two_inputs_catalog: Path) -> None:
    arrays = inputs(1, 4)
    ends: Counter[int | str] = Counter()

    async def send_until_closed(client: Client) -> None:
        status: int = ANSWERED
        while status == ANSWERED:
            try:
                status = await client.infer(arrays)
            except httpx.TransportError:
                break  # the connection was closed while idle
        ends[status] += 1

    with running_hosts(two_inputs_catalog, SlowRunners().wrap) as addresses:
        async with two_gateways(two_inputs_catalog, addresses) as (closing, remaining):
            sending = [
                asyncio.create_task(send_until_closed(client))
                for client in (closing, remaining)
                for _ in "abcd"
            ]
            await until(lambda: closing.answered.total() >= 50 and remaining.answered.total() >= 50)
            await in_time(closing.gateway.close())
            await in_time(asyncio.gather(*sending[:4]))
            assert ends.keys() <= {ANSWERED, CLOSING}
            before = remaining.answered.total()
            await until(lambda: remaining.answered.total() >= before + 50)
            assert not any(task.done() for task in sending[4:])
            for variant in ACCURACY:
                status = await remaining.infer(arrays, variant=variant, slo_latency_ms=60_000)
                assert status == ANSWERED
                assert not await remaining.metric("paretoserve_hosts_lost_total", variant=variant)
            await in_time(remaining.gateway.close())
            await in_time(asyncio.gather(*sending[4:]))


async def test_both_gateways_detect_a_killed_host_and_its_replacement(
    two_inputs_catalog: Path,
) -> None:
    with (
        running_hosts(two_inputs_catalog) as own,
        host_process(two_inputs_catalog, "coarse") as coarse,
    ):
        process, address = coarse
        addresses = {**own, "coarse": address}
        async with two_gateways(two_inputs_catalog, addresses) as clients:
            # One request per gateway is sent, one is queued: they cannot share a batch.
            held = [
                asyncio.create_task(client.infer(inputs(1, HELD_TOKENS + more), variant="coarse"))
                for client in clients
                for more in (0, 1)
            ]
            for client in clients:
                await client.metric_becomes(1, "paretoserve_queue_length")
            process.kill()
            for client in clients:
                await client.metric_becomes(1, "paretoserve_hosts_lost_total", variant="coarse")
            # Only now: a host that the registry does not list any more is stopped, not lost.
            del addresses["coarse"]
            for client in clients:
                assert not await client.is_variant_ready("coarse")
                assert await client.infer(inputs(2, 4), slo_latency_ms=60_000) == ANSWERED
                assert client.answered == {"dense": 2}
                assert not await client.metric("paretoserve_hosts_lost_total", variant="dense")
            assert not any(task.done() for task in held)
            addresses["coarse"] = own["coarse"]
            assert await in_time(asyncio.gather(*held)) == [ANSWERED] * 4
            for client in clients:
                assert client.answered == {"dense": 2, "coarse": 2}
                assert await client.is_variant_ready("coarse")
