"""Host discovery with real hosts on loopback and a fake registry."""

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
from tests.serving.link.hosts import run_batch
from tests.waiting import until

SIZES = {"dense": (1, 4), "int8": (1, 4)}


class FakeRegistry:
    """A registry of the hosts that a test sets."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[HostSocket] | Exception] = {}
        """Hosts by application."""
        self.apps: dict[str, list[str]] = {}
        """Applications of the variants that have another application than one of their name."""
        self.rounds = 0
        """Number of discoveries so far."""

    async def list_apps(self) -> dict[str, list[str]]:
        return {app: [app] for app in self.hosts} | self.apps

    async def describe(self, app: str) -> list[HostDescription]:
        self.rounds += app == "dense"
        hosts = self.hosts[app]
        if isinstance(hosts, Exception):
            raise hosts
        return [HostDescription(host.address, 1, 1_000, None) for host in hosts]


class DiscoveryHarness:
    """Host discovery with its pool, latency model and telemetry."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.counts: dict[str, int] = {}
        self.collectors = CollectorRegistry()
        self.pool = HostPool(self.counts.__setitem__)
        self.latency = LatencyModel(
            {name: exactly(dict.fromkeys(sizes, 99.0)) for name, sizes in SIZES.items()},
            lambda: 0.0,
        )
        metrics = Metrics(self.collectors, "shirts")
        self.statistics = Statistics(SIZES)
        self.discovery = HostDiscovery(
            MODEL,
            SIZES,
            self.pool,
            self.latency,
            Telemetry(metrics, self.statistics),
            registry,
            period_s=0.02,
        )

    def metric_value(self, name: str, variant: str) -> float:
        labels = {"model": "shirts", "variant": variant}
        return self.collectors.get_sample_value(f"paretoserve_{name}", labels) or 0.0

    def lost(self, variant: str) -> float:
        return self.metric_value("hosts_lost_total", variant)

    def usage(self, variant: str) -> tuple[float, float, int]:
        """Return the replicas, and their memory in the metrics and in the statistics."""
        return (
            self.metric_value("replicas", variant),
            self.metric_value("resident_bytes", variant),
            self.statistics.by_variant[variant].resident_bytes,
        )


@pytest.fixture
def host() -> Any:
    """A function that starts a host of a variant; the hosts are closed after the test."""
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
async def discovering(registry: FakeRegistry) -> AsyncIterator[DiscoveryHarness]:
    """Run host discovery within a `with`."""
    harness = DiscoveryHarness(registry)
    task = asyncio.create_task(harness.discovery.run())
    try:
        yield harness
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def next_rounds(registry: FakeRegistry) -> None:
    """Wait until discovery has started three more rounds, so that two are complete."""
    before = registry.rounds
    await until(lambda: registry.rounds >= before + 3)


async def test_hosts_are_used_once_every_variant_has_one(host: Any) -> None:
    registry = FakeRegistry()
    registry.hosts = {"dense": [host("dense")]}
    async with discovering(registry) as harness:
        await next_rounds(registry)
        assert harness.counts == {}, "a host was timed while others were starting"
        registry.hosts["int8"] = [host("int8"), host("int8")]
        await until(lambda: harness.counts == {"dense": 1, "int8": 2})
        assert harness.latency.times("int8").within_s(4) < 1, "the hosts were not timed"
        result = await run_batch(harness.pool, "dense", {"pixels": np.ones((1, 4), np.float32)})
        assert result.outputs["logits"].tolist() == [[18.0, 22.0, 26.0]]


async def test_hosts_stay_in_use_while_the_registry_does_not_answer(host: Any) -> None:
    registry = FakeRegistry()
    registry.hosts = {"dense": [host("dense")], "int8": [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {"dense": 1, "int8": 1})
        hosts = registry.hosts["dense"]
        registry.hosts["dense"] = TimeoutError()
        await next_rounds(registry)
        assert harness.counts == {"dense": 1, "int8": 1}
        registry.hosts["dense"] = hosts
        await next_rounds(registry)
        assert harness.counts == {"dense": 1, "int8": 1}


async def test_a_host_that_serve_stopped_is_removed_and_does_not_count_as_lost(host: Any) -> None:
    registry = FakeRegistry()
    remaining, stopped = host("dense"), host("dense")
    registry.hosts = {"dense": [remaining, stopped], "int8": [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get("dense") == 2)
        registry.hosts["dense"] = [remaining]
        await until(lambda: harness.counts["dense"] == 1)
        assert [one.address for one in harness.pool.hosts("dense")] == [remaining.address]
        stopped.close()
        await next_rounds(registry)
        assert harness.lost("dense") == 0


async def test_a_lost_host_is_counted_and_its_replacement_is_found(host: Any) -> None:
    registry = FakeRegistry()
    first = host("dense")
    registry.hosts = {"dense": [first], "int8": [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get("dense") == 1)
        registry.hosts["dense"] = TimeoutError()  # Serve has not noticed yet
        first.close()
        await until(lambda: harness.lost("dense") == 1)
        assert harness.counts["dense"] == 0
        second = host("dense")
        registry.hosts["dense"] = [second]
        await until(lambda: harness.counts["dense"] == 1)
        assert [one.address for one in harness.pool.hosts("dense")] == [second.address]


async def test_a_replacement_on_the_same_node_is_not_timed(host: Any) -> None:
    registry = FakeRegistry()
    first = host("dense")
    registry.hosts = {"dense": [first], "int8": [host("int8")]}
    sizes: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["pixels"]))
        return answers("dense", inputs)

    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get("dense") == 1)
        measured_s = harness.latency.times("dense").within_s(4)
        with contextlib.closing(HostSocket(run)) as second:
            registry.hosts["dense"] = [second]
            first.close()
            await until(
                lambda: [h.address for h in harness.pool.hosts("dense")] == [second.address]
            )
        assert sizes == [1], "one batch shows that the host works"
        assert harness.latency.times("dense").within_s(4) == measured_s


async def test_a_second_application_of_a_variant_is_found(host: Any) -> None:
    registry = FakeRegistry()
    registry.hosts = {"dense": [host("dense")], "int8": [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {"dense": 1, "int8": 1})
        registry.hosts["int8 again"] = [host("int8")]
        registry.apps["int8"] = ["int8", "int8 again"]
        await until(lambda: harness.counts["int8"] == 2)


async def test_the_memory_is_that_of_the_described_hosts(host: Any) -> None:
    registry = FakeRegistry()
    remaining, stopped = host("int8"), host("int8")
    registry.hosts = {"dense": [host("dense")], "int8": [remaining, stopped]}
    async with discovering(registry) as harness:
        await until(lambda: harness.usage("int8") == (2, 2_000, 2_000))
        assert harness.usage("dense") == (1, 1_000, 1_000)
        registry.hosts["int8"] = [remaining]
        await until(lambda: harness.usage("int8") == (1, 1_000, 1_000))
        assert harness.usage("dense") == (1, 1_000, 1_000)


async def test_a_variant_has_no_replicas_after_its_last_host_is_lost_without_the_registry(
    host: Any,
) -> None:
    registry = FakeRegistry()
    last, other = host("dense"), host("int8")
    registry.hosts = {"dense": [last], "int8": [other]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {"dense": 1, "int8": 1})
        for variant in ("dense", "int8"):
            registry.hosts[variant] = TimeoutError()
        await next_rounds(registry)
        assert harness.usage("dense") == (1, 1_000, 1_000), (
            "a host without a description was removed"
        )
        last.close()
        await until(lambda: harness.lost("dense") == 1)
        await until(lambda: harness.usage("dense") == (0, 0, 0))
        assert harness.usage("int8") == (1, 1_000, 1_000)
