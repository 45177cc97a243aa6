"""Two gateways over the same hosts: each has its own queue, and neither knows of the other."""

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
"""Asked of each gateway."""

AT_A_TIME = 24
ANSWERED, LATE, LEAVING = HTTPStatus.OK, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE
ALLOWED = {ANSWERED, HTTPStatus.TOO_MANY_REQUESTS, LATE}

LONG = 7
"""Tokens: what has so many is kept by a host process."""

ROOT = Path(__file__).parents[3]

HOST = """
import sys, threading
from pathlib import Path
from serving.link.host import HostSocket
from variants.catalog.catalog import Catalog
from variants.runtime.runner import load_runner

folder, name = Path(sys.argv[1]), sys.argv[2]
catalog = Catalog.load(folder)
runner = load_runner(folder, catalog.model, catalog.variants[name], threads=1)

def run(given):
    if given["tokens"].shape[1] >= int(sys.argv[3]):
        print("held", flush=True)
        threading.Event().wait()
    return runner(given)

print(HostSocket(run).address, flush=True)
sys.stdin.read()
"""


@dataclass
class Work:
    """Makes a batch take about as long as a small network does, and counts samples by variant."""

    samples: Counter[str] = field(default_factory=Counter)

    def wrap(self, run: Runner) -> Runner:
        numbers = np.random.default_rng(0).random(40_000)
        (variant,) = (
            name
            for name in ACCURACY
            if np.allclose(run(inputs(1, 4))["sums"], answers(name, inputs(1, 4))["sums"])
        )

        def worked(given: Tensors) -> dict[str, np.typing.NDArray[Any]]:
            np.sort(numbers)
            self.samples[variant] += len(given["tokens"])
            return run(given)

        return worked


class Client:
    """Asks one gateway, and checks each answer against what the variant says."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.http_port}",
            timeout=GIVE_UP_S,
        )
        self.answered: Counter[str] = Counter()
        """Samples by variant."""

    async def ask(self, given: Arrays, **parameters: Any) -> int:
        """Return the status; what was answered is right, or this fails."""
        tensors = [
            {
                "name": name,
                "datatype": DATATYPES[name],
                "shape": array.shape,
                "data": array.reshape(-1).tolist(),
            }
            for name, array in given.items()
        ]
        response = await self.http.post(
            "/v2/models/words/infer", json={"inputs": tensors, "parameters": parameters}
        )
        if response.status_code == ANSWERED:
            document = response.json()
            variant = document["model_version"]
            assert variant == parameters.get("variant", variant)
            self.answered[variant] += len(given["tokens"])
            found = {
                output["name"]: np.reshape(output["data"], output["shape"])
                for output in document["outputs"]
            }
            assert_close(found, answers(variant, given))
        return response.status_code

    async def value(self, name: str, **labels: str) -> float:
        """Return what a metric of the gateway says."""
        return metric_value((await self.http.get("/metrics")).text, name, **labels)

    async def becomes(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric of the gateway has a value."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.value(name, **labels) != value:
                await asyncio.sleep(0.01)

    async def is_variant_ready(self, variant: str) -> bool:
        response = await self.http.get(f"/v2/models/words/versions/{variant}/ready")
        return response.status_code == ANSWERED


@asynccontextmanager
async def two(
    catalog: Path, addresses: dict[str, str], **limits: int
) -> AsyncIterator[list[Client]]:
    """Clients of two gateways that use the hosts at these addresses."""
    async with AsyncExitStack() as stack:
        settings = {"limits": limits, "drain_s": 5.0}
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
    """Run a host that can be killed, and give its address."""
    command = [sys.executable, "-c", HOST, str(catalog), variant, str(LONG)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_both_answer_alike_when_they_are_asked_alike(two_inputs_catalog: Path) -> None:
    random = np.random.default_rng(0)
    asked: list[tuple[Arrays, dict[str, Any]]] = [
        (
            inputs(1 + number % 4, 4, number),
            {"slo_latency_ms": int(random.choice([100, 400, 4_000]))}
            | [{}, {"variant": "dense"}, {"variant": "coarse"}][number % 3],
        )
        for number in range(REQUESTS)
    ]
    work = Work()
    statuses: list[Counter[int]] = [Counter(), Counter()]
    order: list[int] = []
    with running_hosts(two_inputs_catalog, work.wrap) as addresses:
        async with two(two_inputs_catalog, addresses, batch_size=8) as clients:
            work.samples.clear()  # the hosts were timed

            async def ask_all(place: int, left: Iterator[tuple[Arrays, dict[str, Any]]]) -> None:
                for given, parameters in left:
                    status = await clients[place].ask(given, **parameters)
                    statuses[place][status] += 1
                    if status == ANSWERED:
                        order.append(place)

            left = [iter(asked), iter(asked)]
            await asyncio.gather(
                *(ask_all(place, left[place]) for _ in range(AT_A_TIME) for place in (0, 1))
            )
            for client, counted in zip(clients, statuses, strict=True):
                assert counted.keys() <= ALLOWED
                assert counted.total() == REQUESTS
                assert client.answered.keys() == ACCURACY.keys(), "it did not use every host"
                for variant, samples in client.answered.items():
                    computed = await client.value("paretoserve_samples_total", variant=variant)
                    assert computed == samples
    assert work.samples == clients[0].answered + clients[1].answered
    for answered in (Counter(order), Counter(order[: len(order) // 2])):
        assert min(answered[0], answered[1]) * 3 >= max(answered.values()), statuses


async def test_when_one_closes_the_other_goes_on(two_inputs_catalog: Path) -> None:
    given = inputs(1, 4)
    ends: Counter[int | str] = Counter()

    async def ask_on(client: Client) -> None:
        """Until told that it closes."""
        status: int = ANSWERED
        while status == ANSWERED:
            try:
                status = await client.ask(given)
            except httpx.TransportError:
                break  # it was closed while idle
        ends[status] += 1

    with running_hosts(two_inputs_catalog, Work().wrap) as addresses:
        async with two(two_inputs_catalog, addresses) as (closing, going):
            asking = [
                asyncio.create_task(ask_on(client)) for client in (closing, going) for _ in "abcd"
            ]
            await until(lambda: closing.answered.total() >= 50 and going.answered.total() >= 50)
            await in_time(closing.gateway.close())
            await in_time(asyncio.gather(*asking[:4]))
            assert ends.keys() <= {ANSWERED, LEAVING}
            before = going.answered.total()
            await until(lambda: going.answered.total() >= before + 50)
            assert not any(task.done() for task in asking[4:])
            for variant in ACCURACY:
                assert await going.ask(given, variant=variant, slo_latency_ms=4_000) == ANSWERED
                assert not await going.value("paretoserve_hosts_lost_total", variant=variant)
            await in_time(going.gateway.close())
            await in_time(asyncio.gather(*asking[4:]))


async def test_both_notice_that_a_host_was_killed_and_that_another_came(
    two_inputs_catalog: Path,
) -> None:
    with (
        running_hosts(two_inputs_catalog) as own,
        host_process(two_inputs_catalog, "coarse") as coarse,
    ):
        process, address = coarse
        addresses = {**own, "coarse": address}
        async with two(two_inputs_catalog, addresses) as clients:
            # Of each two, one is sent: they cannot share a batch.
            held = [
                asyncio.create_task(client.ask(inputs(1, LONG + more), variant="coarse"))
                for client in clients
                for more in (0, 1)
            ]
            for client in clients:
                await client.becomes(1, "paretoserve_queue_length")
            process.kill()
            del addresses["coarse"]
            for client in clients:
                await client.becomes(1, "paretoserve_hosts_lost_total", variant="coarse")
                assert not await client.is_variant_ready("coarse")
                assert await client.ask(inputs(2, 4), slo_latency_ms=4_000) == ANSWERED
                assert client.answered == {"dense": 2}
                assert not await client.value("paretoserve_hosts_lost_total", variant="dense")
            assert not any(task.done() for task in held)
            addresses["coarse"] = own["coarse"]
            assert await in_time(asyncio.gather(*held)) == [ANSWERED] * 4
            for client in clients:
                assert client.answered == {"dense": 2, "coarse": 2}
                assert await client.is_variant_ready("coarse")
