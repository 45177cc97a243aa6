"""The directory against real hosts on loopback; only who tells of them is made up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.dataplane.batching import Arrays
from serving.gateway.description import HostDescription
from serving.gateway.discovery import HostDiscovery
from serving.link.host import HostSocket
from serving.link.pool import HostPool
from serving.routing.latency import LatencyModel
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from tests.serving.builders import MODEL, answers, exactly
from tests.waiting import until

SIZES = {"dense": (1, 4), "int8": (1, 4)}
TIMEOUT_S = 30.0


class FakeRegistry:
    """A registry that says what a test tells it."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[HostSocket] | Exception] = {}
        self.looks = 0

    async def list_apps(self) -> dict[str, list[str]]:
        return {app: [app] for app in self.hosts}

    async def describe(self, app: str) -> list[HostDescription]:
        self.looks += app == "dense"
        hosts = self.hosts[app]
        if isinstance(hosts, Exception):
            raise hosts
        return [HostDescription(host.address, 1, 1_000, None) for host in hosts]


class Bench:
    def __init__(self, told: FakeRegistry) -> None:
        self.told = told
        self.counts: dict[str, int] = {}
        self.registry = CollectorRegistry()
        self.pool = HostPool(self.counts.__setitem__)
        self.latency = LatencyModel(
            {name: exactly(dict.fromkeys(sizes, 99.0)) for name, sizes in SIZES.items()},
            lambda: 0.0,
        )
        metrics = Metrics(self.registry, "shirts")
        self.statistics = Statistics(SIZES)
        self.directory = HostDiscovery(
            MODEL, SIZES, self.pool, self.latency, Telemetry(metrics, self.statistics), told
        )

    def metric_value(self, name: str, variant: str) -> float:
        labels = {"model": "shirts", "variant": variant}
        return self.registry.get_sample_value(f"paretoserve_{name}", labels) or 0.0

    def lost(self, variant: str) -> float:
        return self.metric_value("hosts_lost_total", variant)

    def counted(self, variant: str) -> tuple[float, float, int]:
        """The replicas, and their memory by the metrics and by the statistics."""
        return (
            self.metric_value("replicas", variant),
            self.metric_value("resident_bytes", variant),
            self.statistics.by_variant[variant].resident_bytes,
        )


@pytest.fixture
def host() -> Any:
    """Start a host of a variant; all are closed at the end."""
    sockets: list[HostSocket] = []

    def start(variant: str) -> HostSocket:
        def run(inputs: Arrays) -> Arrays:
            return answers(variant, inputs)

        sockets.append(HostSocket(run))
        return sockets[-1]

    yield start
    for socket in sockets:
        socket.close()


@contextlib.asynccontextmanager
async def watching(told: FakeRegistry) -> AsyncIterator[Bench]:
    bench = Bench(told)
    task = asyncio.create_task(bench.directory.run())
    try:
        yield bench
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def rounds(told: FakeRegistry) -> None:
    """Wait until the directory has looked, and looked again."""
    before = told.looks
    await until(lambda: told.looks >= before + 3)


async def test_hosts_are_used_once_every_variant_has_one(host: Any) -> None:
    told = FakeRegistry()
    told.hosts = {"dense": [host("dense")]}
    async with watching(told) as bench:
        await rounds(told)
        assert bench.counts == {}, "what hosts take while others start means nothing"
        told.hosts["int8"] = [host("int8"), host("int8")]
        await until(lambda: bench.counts == {"dense": 1, "int8": 2})
        assert bench.latency.times("int8").within_s(4) < 1, (
            "they were timed, and the card is replaced"
        )
        result = await bench.pool.run("dense", {"pixels": np.ones((1, 4), np.float32)})
        assert result.outputs["logits"].tolist() == [[18.0, 22.0, 26.0]]


async def test_a_registry_that_cannot_answer_costs_nobody_its_hosts(host: Any) -> None:
    told = FakeRegistry()
    told.hosts = {"dense": [host("dense")], "int8": [host("int8")]}
    async with watching(told) as bench:
        await until(lambda: bench.counts == {"dense": 1, "int8": 1})
        hosts = told.hosts["dense"]
        told.hosts["dense"] = TimeoutError()
        await rounds(told)
        assert bench.counts == {"dense": 1, "int8": 1}
        told.hosts["dense"] = hosts
        await rounds(told)
        assert bench.counts == {"dense": 1, "int8": 1}


async def test_a_host_that_was_stopped_is_let_go_and_not_mourned(host: Any) -> None:
    told = FakeRegistry()
    stays, goes = host("dense"), host("dense")
    told.hosts = {"dense": [stays, goes], "int8": [host("int8")]}
    async with watching(told) as bench:
        await until(lambda: bench.counts.get("dense") == 2)
        told.hosts["dense"] = [stays]
        await until(lambda: bench.counts["dense"] == 1)
        assert [one.address for one in bench.pool.hosts("dense")] == [stays.address]
        goes.close()
        await rounds(told)
        assert bench.lost("dense") == 0


async def test_a_host_that_is_lost_is_counted_and_its_successor_found(host: Any) -> None:
    told = FakeRegistry()
    first = host("dense")
    told.hosts = {"dense": [first], "int8": [host("int8")]}
    async with watching(told) as bench:
        await until(lambda: bench.counts.get("dense") == 1)
        told.hosts["dense"] = TimeoutError()  # Serve has not noticed yet
        first.close()
        await until(lambda: bench.lost("dense") == 1)
        assert bench.counts["dense"] == 0
        second = host("dense")
        told.hosts["dense"] = [second]
        await until(lambda: bench.counts["dense"] == 1)
        assert [one.address for one in bench.pool.hosts("dense")] == [second.address]


async def test_the_memory_is_that_of_the_hosts_there_are(host: Any) -> None:
    told = FakeRegistry()
    stays, goes = host("int8"), host("int8")
    told.hosts = {"dense": [host("dense")], "int8": [stays, goes]}
    async with watching(told) as bench:
        await until(lambda: bench.counted("int8") == (2, 2_000, 2_000))
        assert bench.counted("dense") == (1, 1_000, 1_000)
        told.hosts["int8"] = [stays]
        await until(lambda: bench.counted("int8") == (1, 1_000, 1_000))
        assert bench.counted("dense") == (1, 1_000, 1_000)


async def test_a_variant_whose_last_host_is_lost_has_no_replica_whatever_the_registry_knows(
    host: Any,
) -> None:
    told = FakeRegistry()
    last, other = host("dense"), host("int8")
    told.hosts = {"dense": [last], "int8": [other]}
    async with watching(told) as bench:
        await until(lambda: bench.counts == {"dense": 1, "int8": 1})
        for variant in ("dense", "int8"):
            told.hosts[variant] = TimeoutError()
        await rounds(told)
        assert bench.counted("dense") == (1, 1_000, 1_000), "it does not answer, and it is there"
        last.close()
        await until(lambda: bench.lost("dense") == 1)
        await until(lambda: bench.counted("dense") == (0, 0, 0))
        assert bench.counted("int8") == (1, 1_000, 1_000)
