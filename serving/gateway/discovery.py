"""Host discovery: keeps a gateway's pool of hosts equal to the replicas that Serve runs.

About once per second, more often while a generation starts, and at once after a host is lost, it
queries the addresses of all replicas of the generations that it watches, connects to new ones and
times them, and removes those that are gone. A replacement on a node where its generation was timed
before is not timed again. Neither a slow answer nor a host that is timed delays the others.

A host that has served for a while, as after a restart of this gateway, is used at once and is not
timed: its times would include those of the batches that it runs for others. The times of the report
card apply until batches have shown better ones. A host that has loaded other files than those of
the catalog is not used.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from serving.control.wake import wait_for_wake
from serving.dataplane.executor import HostLost
from serving.dataplane.readiness import START_GRACE_S
from serving.gateway.description import HostDescription
from serving.gateway.registry import Registry, describe_hosts
from serving.gateway.timing import Pause, time_host
from serving.gateway.watch import Watch, wrong_files
from serving.link.calls import BatchFailed, Connection
from serving.link.connection import HostConnection
from serving.link.pool import HostPool
from serving.routing.latency import LatencyModel
from serving.telemetry.event import HostUsage
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

logger = logging.getLogger(__name__)

T = TypeVar("T")

Connect: TypeAlias = Callable[[str, Callable[[], None]], Connection]
"""Connects to a host at an address; the second argument is called when the host is lost."""

PERIOD_S: Final = 1.0
"""Interval of discovery, in seconds."""

STARTING_PERIOD_S: Final = 0.2
"""Interval while a generation that is watched does not have all its hosts, in seconds."""

LIST_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the registry to list the applications."""

PATIENCE_S: Final = 1.0
"""Time, in seconds, that a round waits for descriptions. Later ones count in the next round."""

KNOWN_AFTER_S: Final = 30.0
"""Time, in seconds, since its first batch after which a host is known to serve. Until then another
gateway may only be timing it."""

TIMING_S: Final = 2.0
"""Time, in seconds, after which a host of a service that runs already is timed less often."""


class HostDiscovery:
    """Keeps the pool of hosts of one gateway up to date."""

    def __init__(
        self,
        model: Model,
        pool: HostPool,
        latency: LatencyModel,
        telemetry: Telemetry,
        registry: Registry,
        *,
        connect: Connect = HostConnection,
        on_change: Callable[[], None] = lambda: None,
        pause: Pause = asyncio.sleep,
        period_s: float = PERIOD_S,
    ) -> None:
        """`on_change` is called after each round and when a host has joined the pool.

        `pause` waits for a time before each batch with which a new host is timed.
        """
        self._model = model
        self._pool = pool
        self._latency = latency
        self._telemetry = telemetry
        self._registry = registry
        self._connect_to = connect
        self._on_change = on_change
        self._pause = pause
        self._period_s = period_s
        self._wake = asyncio.Event()
        self._may_time = asyncio.Event()
        """Set when no host is starting together with the service any more."""
        self._started = time.monotonic()
        self._watches: dict[str, Watch] = {}
        self._draining: dict[Connection, Watch] = {}
        """Hosts that get no more batches, until theirs have ended."""
        self._timing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def watch(
        self,
        variant: str,
        generation: int,
        sizes: Sequence[int],
        *,
        digest: str,
        is_awaited: bool,
    ) -> None:
        """Bring the hosts of a generation into the pool from now on.

        The latency model must have its routing key. `sizes`, `digest` and `is_awaited` as in
        `Watch`.
        """
        watch = Watch(variant, generation, sizes, digest, is_awaited)
        self._watches[watch.key] = watch
        self._wake.set()

    def unwatch(self, key: str) -> None:
        """Send no more batches to the hosts of a generation; those in flight may finish."""
        watch = self._watches.pop(key)
        watch.cancel()
        for host in self._pool.hosts(key):
            self._drain(watch, host)
        self._close_drained()

    def is_warm(self, key: str) -> bool:
        """Return whether all known replicas of a watched generation, at least one, are in use."""
        addresses = self._watches[key].addresses
        return bool(addresses) and addresses <= {host.address for host in self._pool.hosts(key)}

    def error(self, key: str) -> str | None:
        """Return why a watched generation has no hosts, or why one does not work."""
        return self._watches[key].error

    def watched(self) -> list[tuple[str, int]]:
        """Return the variants and generations that are watched."""
        return [(watch.variant, watch.generation) for watch in self._watches.values()]

    def draining(self) -> Counter[tuple[str, int]]:
        """Return the number of hosts that only finish their batches, by variant and generation."""
        return Counter((watch.variant, watch.generation) for watch in self._draining.values())

    def report_usage(self, key: str) -> None:
        """Report the replicas of a watched generation and their memory."""
        hosts = self._watches[key].hosts
        memories = [host.gpu_memory_bytes for host in hosts if host.gpu_memory_bytes is not None]
        self._telemetry.host_usage(
            HostUsage(
                key,
                replicas=len(hosts),
                resident_bytes=sum(host.resident_bytes for host in hosts),
                gpu_memory_bytes=sum(memories) if memories else None,
                provider=next((host.provider for host in hosts), None),
            )
        )

    async def run(self) -> None:
        """Discover hosts until cancelled, then close the connections."""
        ticked = time.monotonic()
        try:
            while True:
                self._wake.clear()
                try:
                    await self._refresh()
                except Exception:  # Serve may be busy or restarting; hosts work without it
                    logger.exception("the hosts could not be listed; trying again")
                now = time.monotonic()
                self._telemetry.tick(now - ticked)
                ticked = now
                is_complete = all(map(self.is_warm, self._watches))
                period_s = self._period_s if is_complete else STARTING_PERIOD_S
                await wait_for_wake(self._wake, min(self._period_s, period_s))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for key in self._watches:
                for host in self._pool.hosts(key):
                    host.close()
            for host in self._draining:
                host.close()

    async def _refresh(self) -> None:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            apps = await self._registry.list_apps()
        watches = list(self._watches.values())
        for watch in watches:
            if watch.description is None:
                app = apps.get((watch.variant, watch.generation))
                watch.description = self._start(
                    describe_hosts(self._registry, self._pool, watch, app)
                )
        pending = [watch.description for watch in watches if watch.description is not None]
        if pending:
            await asyncio.wait(pending, timeout=PATIENCE_S)
        for watch in watches:
            if self._watches.get(watch.key) is watch:
                self._update_pool(watch)
        self._close_drained()
        self._connect_new()
        self._on_change()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that ends with the discovery."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _update_pool(self, watch: Watch) -> None:
        """Remove the hosts that were not described; skip a generation without an answer."""
        hosts: list[HostDescription] | None = None
        if watch.description is not None and watch.description.done():
            hosts = watch.description.result()
            watch.description = None
        if hosts is None:
            if not self._pool.hosts(watch.key):
                watch.hosts = ()
                self.report_usage(watch.key)
            return
        watch.hosts = [host for host in hosts if host.digest == watch.digest]
        others = sorted((host.digest, host.address) for host in hosts if host not in watch.hosts)
        addresses = watch.addresses
        for host in self._pool.hosts(watch.key):
            if host.address not in addresses:
                # Serve is stopping this host. It may finish its batches and gets no new ones.
                self._drain(watch, host)
        for address in watch.connecting.keys() - addresses:
            watch.connecting[address].cancel()
        if others:
            digest, address = others[0]
            watch.fail(wrong_files(watch, digest), address)
        elif self.is_warm(watch.key):
            watch.recover()
        self.report_usage(watch.key)

    def _drain(self, watch: Watch, host: Connection) -> None:
        self._pool.remove(watch.key, host)
        self._draining[host] = watch

    def _close_drained(self) -> None:
        for host in [host for host in self._draining if not host.in_flight]:
            host.close()
            del self._draining[host]

    def _connect_new(self) -> None:
        """Connect to the hosts that are described and not yet connected."""
        if not self._may_time.is_set():
            awaited = [watch for watch in self._watches.values() if watch.is_awaited]
            is_late = time.monotonic() - self._started > START_GRACE_S
            are_up = awaited and all(watch.addresses or watch.error for watch in awaited)
            if are_up or is_late:
                self._may_time.set()
        for watch in self._watches.values():
            connected = {host.address for host in self._pool.hosts(watch.key)}
            for each in watch.hosts:
                address = each.address
                if address in connected or address in watch.connecting:
                    continue
                # Timings are not representative while other hosts are starting.
                is_known = watch.is_awaited and each.served_for_s >= KNOWN_AFTER_S
                if is_known or self._may_time.is_set():
                    connect = self._connect(watch, address, is_known=is_known)
                    watch.connecting[address] = self._start(connect)

    async def _connect(self, watch: Watch, address: str, *, is_known: bool) -> None:
        """Connect to a host, check it, time it if necessary, and add it to the pool.

        A host that `is_known` to serve is not timed. Every host must compute the smallest and the
        largest batch.
        """
        key = watch.key

        def on_lost() -> None:
            # A host that Serve has stopped is not in the pool any more.
            if self._pool.remove(key, host):
                self._telemetry.host_lost(key)
                logger.error("a host was lost", extra={"variant": key, "host": address})
                self._wake.set()

        began = time.monotonic()
        host = self._connect_to(address, on_lost)
        try:
            for size in sorted({min(watch.sizes), max(watch.sizes)}):
                await host.run(zero_batch(self._model, size))
            if is_known:
                watch.known_nodes.add(_node(host))
            else:
                await self._time(watch, host)
        except (HostLost, BatchFailed) as error:
            host.close()
            # A busy machine may have stopped the process of a host, or of this gateway, once.
            is_second = watch.lost_at is not None and watch.lost_at < began
            if is_second or isinstance(error, BatchFailed):
                watch.fail(f"a host failed to warm up: {error}", address)
            else:
                if watch.lost_at is None:
                    watch.lost_at = time.monotonic()
                logger.error(
                    "a host failed to warm up",
                    extra={"variant": key, "host": address, "cause": str(error)},
                )
            await asyncio.sleep(self._period_s)  # before it is tried again
        except BaseException:
            host.close()
            raise
        else:
            if not host.is_lost:
                watch.lost_at = None
                self._pool.add(key, host)
                if self.is_warm(key):
                    watch.recover()
        finally:
            watch.connecting.pop(address, None)
        self._on_change()

    async def _time(self, watch: Watch, host: Connection) -> None:
        """Calibrate the latency model by the first host of each node."""
        async with self._timing:  # timings would distort each other
            if _node(host) in watch.known_nodes:
                # Timings would take CPU from hosts that serve, and be distorted by their load.
                return
            within_s = math.inf if watch.is_awaited else TIMING_S
            timings = await time_host(host, self._model, watch.sizes, self._pause, within_s)
            self._latency.calibrate(watch.key, *timings)
            watch.known_nodes.add(_node(host))


def _node(host: Connection) -> str:
    """Return the part of the address that all hosts of a node share."""
    return host.address.rpartition(":")[0]
