"""Host discovery with real hosts on loopback and a fake registry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from socket import create_server
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.dataplane.batching import Arrays
from serving.gateway.description import HostDescription
from serving.gateway.discovery import KNOWN_AFTER_S, HostDiscovery
from serving.link.connection import HostConnection
from serving.link.host import HostSocket
from serving.link.pool import HostPool
from serving.routing.generation import generation_key, variant_name
from serving.routing.latency import LatencyModel
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from tests.serving.builders import MODEL, answers, exactly, profile
from tests.serving.link.hosts import GatedRunner, run_batch, running_host
from tests.waiting import until
from variants.catalog.device import PROVIDERS
from variants.catalog.zero_inputs import zero_batch

SIZES = (1, 4)

CARD_S = 99.0
"""Time of a batch of any size, in seconds, according to the report cards."""

DIGEST = "0123456789abcdef"
"""Digest of the files of every generation."""

DENSE, INT8 = "dense@1", "int8@1"


class FakeRegistry:
    """A registry of the hosts that a test sets."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[HostSocket] | Exception] = {}
        """Hosts by application, which has the name of the routing key."""
        self.failures: dict[str, str] = {}
        """Causes of failures by application."""
        self.digests: dict[str, str] = {}
        """Digests of hosts that have loaded other files, by address."""
        self.served_for_s: dict[str, float] = {}
        """Since when hosts have served, by address, instead of what they say."""
        self.silent: set[str] = set()
        """Applications that do not answer."""
        self.rounds = 0
        """Number of discoveries so far."""

    async def list_apps(self) -> dict[tuple[str, int], str]:
        self.rounds += 1
        parts = {app: app.partition("@") for app in self.hosts}
        return {(name, int(number)): app for app, (name, _, number) in parts.items()}

    async def describe(self, app: str) -> list[HostDescription]:
        if app in self.silent:
            await asyncio.Event().wait()
        hosts = self.hosts[app]
        if isinstance(hosts, Exception):
            raise hosts
        return [
            HostDescription(
                host.address,
                1,
                1_000,
                None,
                PROVIDERS["cpu"],
                self.digests.get(host.address, DIGEST),
                self.served_for_s.get(host.address, host.served_for_s),
            )
            for host in hosts
        ]

    async def failure(self, app: str) -> str | None:
        return self.failures.get(app)


class DiscoveryHarness:
    """Host discovery with its pool, latency model and telemetry."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.counts: dict[str, int] = {}
        self.collectors = CollectorRegistry()
        self.pool = HostPool(self.counts.__setitem__)
        self.latency = LatencyModel({}, lambda: 0.0)
        self.telemetry = Telemetry(Metrics(self.collectors, "shirts"), Statistics())
        self.telemetry.serve({DENSE: profile("dense"), INT8: profile("int8")})
        self.discovery = HostDiscovery(
            MODEL, self.pool, self.latency, self.telemetry, registry, period_s=0.02
        )
        for variant in ("dense", "int8"):
            self.watch(variant, 1, is_awaited=True)

    def watch(self, variant: str, generation: int, *, is_awaited: bool = False) -> None:
        card = exactly(dict.fromkeys(SIZES, CARD_S))
        self.latency.add(generation_key(variant, generation), card)
        self.discovery.watch(variant, generation, SIZES, digest=DIGEST, is_awaited=is_awaited)

    def metric_value(self, name: str, variant: str) -> float:
        labels = {"model": "shirts", "variant": variant_name(variant)}
        return self.collectors.get_sample_value(f"paretoserve_{name}", labels) or 0.0

    def lost(self, variant: str) -> float:
        return self.metric_value("hosts_lost_total", variant)

    def usage(self, variant: str) -> tuple[float, float, int]:
        """Return the replicas, and their memory in the metrics and in the statistics."""
        return (
            self.metric_value("replicas", variant),
            self.metric_value("resident_bytes", variant),
            self.telemetry.statistics.by_variant[variant].resident_bytes,
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
    registry.hosts = {DENSE: [host("dense")]}
    async with discovering(registry) as harness:
        await next_rounds(registry)
        assert harness.counts == {}, "a host was timed while others were starting"
        registry.hosts[INT8] = [host("int8"), host("int8")]
        await until(lambda: harness.counts == {DENSE: 1, INT8: 2})
        assert harness.latency.times(INT8).within_s(4) < CARD_S / 2, "the hosts were not timed"
        result = await run_batch(harness.pool, DENSE, {"pixels": np.ones((1, 4), np.float32)})
        assert result.outputs["logits"].tolist() == [[18.0, 22.0, 26.0]]


async def test_hosts_stay_in_use_while_the_registry_does_not_answer(host: Any) -> None:
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        hosts = registry.hosts[DENSE]
        registry.hosts[DENSE] = TimeoutError()
        await next_rounds(registry)
        assert harness.counts == {DENSE: 1, INT8: 1}
        registry.hosts[DENSE] = hosts
        await next_rounds(registry)
        assert harness.counts == {DENSE: 1, INT8: 1}


async def test_a_host_that_serve_stopped_is_removed_and_does_not_count_as_lost(host: Any) -> None:
    registry = FakeRegistry()
    remaining, stopped = host("dense"), host("dense")
    registry.hosts = {DENSE: [remaining, stopped], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get(DENSE) == 2)
        registry.hosts[DENSE] = [remaining]
        await until(lambda: harness.counts[DENSE] == 1)
        assert [one.address for one in harness.pool.hosts(DENSE)] == [remaining.address]
        stopped.close()
        await next_rounds(registry)
        assert harness.lost(DENSE) == 0


async def test_a_lost_host_is_counted_and_its_replacement_is_found(host: Any) -> None:
    registry = FakeRegistry()
    first = host("dense")
    registry.hosts = {DENSE: [first], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get(DENSE) == 1)
        registry.hosts[DENSE] = TimeoutError()  # Serve has not noticed yet
        first.close()
        await until(lambda: harness.lost(DENSE) == 1)
        assert harness.counts[DENSE] == 0
        second = host("dense")
        registry.hosts[DENSE] = [second]
        await until(lambda: harness.counts[DENSE] == 1)
        assert [one.address for one in harness.pool.hosts(DENSE)] == [second.address]


async def test_a_replacement_on_the_same_node_is_not_timed(host: Any) -> None:
    registry = FakeRegistry()
    first = host("dense")
    registry.hosts = {DENSE: [first], INT8: [host("int8")]}
    sizes: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["pixels"]))
        return answers("dense", inputs)

    async with discovering(registry) as harness:
        await until(lambda: harness.counts.get(DENSE) == 1)
        measured_s = harness.latency.times(DENSE).within_s(4)
        with contextlib.closing(HostSocket(run)) as second:
            registry.hosts[DENSE] = [second]
            first.close()
            await until(lambda: [h.address for h in harness.pool.hosts(DENSE)] == [second.address])
        assert sizes == [1, 4], "the smallest and the largest batch show that the host works"
        assert harness.latency.times(DENSE).within_s(4) == measured_s


async def test_generations_have_their_own_hosts_and_times(host: Any) -> None:
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        registry.hosts["int8@2"] = [host("int8"), host("int8")]
        await next_rounds(registry)
        assert "int8@2" not in harness.counts, "a generation was connected that is not watched"
        harness.watch("int8", 2)
        await until(lambda: harness.discovery.is_warm("int8@2"))
        assert harness.counts["int8@2"] == 2
        assert harness.counts[INT8] == 1
        assert harness.latency.times("int8@2").within_s(4) < CARD_S / 2, "the hosts were not timed"


async def test_an_unwatched_generation_gets_no_batches_and_its_connections_close(
    host: Any,
) -> None:
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")]}
    gate = GatedRunner()
    gate.open.set()
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        with running_host(gate) as gated:
            registry.hosts["int8@2"] = [gated]
            harness.watch("int8", 2)
            await until(lambda: harness.discovery.is_warm("int8@2"))
            gate.open.clear()
            inputs = {"pixels": np.ones((1, 4), np.float32)}
            running = asyncio.create_task(run_batch(harness.pool, "int8@2", inputs))
            (connection,) = harness.pool.hosts("int8@2")
            await until(lambda: connection.in_flight == 1)
            harness.discovery.unwatch("int8@2")
            assert harness.counts["int8@2"] == 0
            await next_rounds(registry)
            assert harness.discovery.draining() == {("int8", 2): 1}
            assert not connection.is_lost, "the connection was closed with a batch in flight"
            gate.open.set()
            assert (await running).outputs.keys() == inputs.keys()
            await until(lambda: not harness.discovery.draining())
            assert connection.is_lost
        assert harness.lost(INT8) == 0


async def test_an_application_that_does_not_answer_does_not_delay_the_others(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It never answers.
    monkeypatch.setattr("serving.gateway.registry.DESCRIBE_TIMEOUT_S", None)
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        registry.hosts["int8@2"] = []
        registry.silent.add("int8@2")
        harness.watch("int8", 2)
        new = host("dense")
        registry.hosts[DENSE] = [new]
        await until(lambda: [h.address for h in harness.pool.hosts(DENSE)] == [new.address])


async def test_a_host_that_is_lost_while_it_warms_up_is_reported_the_second_time(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        harness.watch("int8", 2)
        for is_reported in (False, True):
            with create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
                dying: Any = SimpleNamespace(address=f"tcp://127.0.0.1:{port}", served_for_s=0.0)
                registry.hosts["int8@2"] = [dying]
                connection, _ = await asyncio.to_thread(server.accept)
                caplog.clear()
            connection.close()
            await until(lambda: bool(caplog.records))
            (record,) = caplog.records
            assert vars(record)["host"] == dying.address
            assert (record.getMessage() == "hosts cannot be used") == is_reported
            assert bool(harness.discovery.error("int8@2")) == is_reported
        registry.hosts["int8@2"] = [host("int8")]
        await until(lambda: harness.discovery.is_warm("int8@2"))
        assert harness.discovery.error("int8@2") is None


async def test_the_cause_of_a_failed_start_is_known_until_the_generation_is_warm(
    host: Any,
) -> None:
    registry = FakeRegistry()
    registry.hosts = {DENSE: [host("dense")], INT8: [host("int8")], "int8@2": TimeoutError()}
    registry.failures["int8@2"] = "ValueError: model.onnx is damaged"
    async with discovering(registry) as harness:
        harness.watch("int8", 2)
        await until(lambda: harness.discovery.error("int8@2") is not None)
        assert harness.discovery.error("int8@2") == "ValueError: model.onnx is damaged"
        assert harness.discovery.error(INT8) is None
        del registry.failures["int8@2"]
        registry.hosts["int8@2"] = [host("int8")]
        await until(lambda: harness.discovery.is_warm("int8@2"))
        assert harness.discovery.error("int8@2") is None


async def test_the_memory_is_that_of_the_described_hosts(host: Any) -> None:
    registry = FakeRegistry()
    remaining, stopped = host("int8"), host("int8")
    registry.hosts = {DENSE: [host("dense")], INT8: [remaining, stopped]}
    async with discovering(registry) as harness:
        await until(lambda: harness.usage(INT8) == (2, 2_000, 2_000))
        assert harness.usage(DENSE) == (1, 1_000, 1_000)
        registry.hosts[INT8] = [remaining]
        await until(lambda: harness.usage(INT8) == (1, 1_000, 1_000))
        assert harness.usage(DENSE) == (1, 1_000, 1_000)


async def test_a_variant_has_no_replicas_after_its_last_host_is_lost_without_the_registry(
    host: Any,
) -> None:
    registry = FakeRegistry()
    last, other = host("dense"), host("int8")
    registry.hosts = {DENSE: [last], INT8: [other]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        for variant in (DENSE, INT8):
            registry.hosts[variant] = TimeoutError()
        await next_rounds(registry)
        assert harness.usage(DENSE) == (1, 1_000, 1_000), "a host without a description was removed"
        last.close()
        await until(lambda: harness.lost(DENSE) == 1)
        await until(lambda: harness.usage(DENSE) == (0, 0, 0))
        assert harness.usage(INT8) == (1, 1_000, 1_000)


async def test_hosts_that_have_served_for_a_while_are_used_at_once_and_never_timed(
    host: Any,
) -> None:
    registry = FakeRegistry()
    sizes: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["pixels"]))
        return answers("dense", inputs)

    with running_host(run) as known:
        registry.served_for_s[known.address] = KNOWN_AFTER_S  # for the gateway before this one
        registry.hosts = {DENSE: [known]}
        async with discovering(registry) as harness:
            await until(lambda: harness.counts == {DENSE: 1})
            registry.hosts[INT8] = [host("int8")]
            await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
            second = host("dense")
            registry.hosts[DENSE] = [known, second]
            await until(lambda: harness.counts[DENSE] == 2)
            within_s = harness.latency.times(DENSE).within_s(4)
            assert within_s == pytest.approx(CARD_S, rel=0.1), "timed beside a host that serves"
        assert sizes == [1, 4]


async def test_a_host_that_another_gateway_only_times_is_not_known(host: Any) -> None:
    registry = FakeRegistry()
    new = host("dense")
    registry.hosts = {DENSE: [new]}
    connection = HostConnection(new.address, lambda: None)
    await connection.run(zero_batch(MODEL, 1))
    connection.close()
    assert 0 < new.served_for_s < KNOWN_AFTER_S
    async with discovering(registry) as harness:
        await next_rounds(registry)
        assert harness.counts == {}, "it was used while others are starting"


@pytest.mark.parametrize("served_for_s", [0.0, KNOWN_AFTER_S])
async def test_a_host_that_cannot_compute_the_largest_batch_is_never_used(
    host: Any, caplog: pytest.LogCaptureFixture, served_for_s: float
) -> None:
    registry = FakeRegistry()
    tries: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        tries.append(len(inputs["pixels"]))
        if len(inputs["pixels"]) == max(SIZES):
            raise MemoryError
        return answers("dense", inputs)

    with running_host(run) as failing:
        registry.served_for_s[failing.address] = served_for_s
        registry.hosts = {DENSE: [failing], INT8: [host("int8")]}
        async with discovering(registry) as harness:
            await until(lambda: tries.count(max(SIZES)) >= 3)
            assert DENSE not in harness.counts
            error = harness.discovery.error(DENSE)
            assert error == "a host failed to warm up: the batch failed: MemoryError"
            said = [each for each in caplog.records if each.name.startswith("serving.gateway")]
            assert [vars(each)["cause"] for each in said] == [error], "logged once"


async def test_a_host_with_other_files_than_the_catalog_is_not_used_and_the_log_says_so_once(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FakeRegistry()
    right, wrong = host("dense"), host("dense")
    registry.hosts = {DENSE: [right], INT8: [host("int8")]}
    async with discovering(registry) as harness:
        await until(lambda: harness.counts == {DENSE: 1, INT8: 1})
        registry.digests[wrong.address] = "fedcba9876543210"
        registry.hosts[DENSE] = [wrong]
        await until(lambda: harness.counts[DENSE] == 0)
        await next_rounds(registry)
        assert harness.counts[DENSE] == 0
        error = harness.discovery.error(DENSE)
        assert error is not None
        assert "digest fedcba987654 instead of 0123456789ab" in error
        said = [vars(each) for each in caplog.records if "cause" in vars(each)]
        assert [(each["cause"], each["host"]) for each in said] == [(error, wrong.address)]
        registry.hosts[DENSE] = [right]
        await until(lambda: harness.counts[DENSE] == 1)
        await until(lambda: harness.discovery.error(DENSE) is None)
