"""Host discovery: keeps a gateway's pool of hosts equal to the replicas that Serve runs.

About once per second, more often while a generation starts, and at once after a host is lost, it
queries the addresses of all replicas of the generations that it watches, connects to new ones and
times them, and removes those that are gone. A replacement on a node where its generation was timed
before is not timed again. Neither a slow answer nor a host that is timed delays the others.

A host that has served before, as after a restart of this gateway, is used at once, on what the
report card says, and timed meanwhile. A host that has loaded other files than those of the catalog
is not used.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from serving.control.wake import wait_for_wake
from serving.dataplane.executor import HostLost
from serving.dataplane.readiness import START_GRACE_S
from serving.gateway.description import HostDescription
from serving.gateway.timing import Pause, time_host
from serving.link.connection import BatchFailed, HostConnection
from serving.link.pool import HostPool
from serving.routing.generation import generation_key
from serving.routing.latency import LatencyModel
from serving.telemetry.event import HostUsage
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

logger = logging.getLogger(__name__)

T = TypeVar("T")

PERIOD_S: Final = 1.0
"""Interval of discovery, in seconds."""

STARTING_PERIOD_S: Final = 0.2
"""Interval while a generation that is watched does not have all its hosts, in seconds."""

LIST_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the registry to list the applications."""

DESCRIBE_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the replicas of a generation to describe themselves."""

PATIENCE_S: Final = 1.0
"""Time, in seconds, that a round waits for descriptions. Later ones count in the next round."""

TIMING_S: Final = 2.0
"""Time, in seconds, after which a host of a service that runs already is timed less often."""

FAILURE_PERIOD_S: Final = 1.0
"""Minimum time, in seconds, between two queries why a generation has no hosts."""


class Registry(Protocol):
    """The source of applications and their hosts: Serve in production."""

    async def list_apps(self) -> dict[tuple[str, int], str]:
        """Return the names of the applications by variant and generation.

        Raises if they are not known now.
        """

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application; raise if one is missing."""

    async def failure(self, app: str) -> str | None:
        """Return why the hosts of an application cannot start; None if nothing is known."""


@dataclass(eq=False)
class Watch:
    """A generation whose hosts are to be in the pool."""

    variant: str
    generation: int
    sizes: Sequence[int]
    """Batch sizes with which a new host is timed."""
    digest: str
    """Digest of the files that its hosts must have loaded."""
    is_awaited: bool
    """Whether a starting gateway connects to no host before this generation has hosts."""
    error: str | None = None
    """Why it has no hosts, or why one does not work, as last known; None if it has all."""
    logged_error: str | None = None
    """The last error that was logged, since it had all hosts."""
    hosts: Sequence[HostDescription] = ()
    """All its replicas that have loaded the right files, as last described."""
    description: asyncio.Task[list[HostDescription] | None] | None = None
    connecting: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Tasks that connect to a host and time it, by address."""
    lost_at: float | None = None
    """When a host was last lost while it warmed up; None if one has warmed up since."""
    timed_nodes: set[str] = field(default_factory=set)
    failure_checked_at: float = 0.0
    """When the registry was last queried for the cause of a failure."""

    @property
    def key(self) -> str:
        """The routing key of the generation."""
        return generation_key(self.variant, self.generation)

    @property
    def addresses(self) -> set[str]:
        """The addresses of its replicas."""
        return {host.address for host in self.hosts}

    def fail(self, error: str) -> None:
        """Record an error, and log it if it is new."""
        self.error = error
        if error != self.logged_error:
            self.logged_error = error
            logger.error("hosts cannot be used", extra={"variant": self.key, "cause": error})

    def recover(self) -> None:
        """Record that there is no error any more."""
        self.error = self.logged_error = None

    def cancel(self) -> None:
        """Stop what is under way."""
        for task in (self.description, *self.connecting.values()):
            if task is not None:
                task.cancel()


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
        self._on_change = on_change
        self._pause = pause
        self._period_s = period_s
        self._wake = asyncio.Event()
        self._may_time = asyncio.Event()
        """Set when no host is starting together with the service any more."""
        self._started = time.monotonic()
        self._watches: dict[str, Watch] = {}
        self._draining: dict[HostConnection, Watch] = {}
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
                watch.description = self._start(self._describe(watch, app))
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
        others = sorted({host.digest for host in hosts} - {watch.digest})
        addresses = watch.addresses
        for host in self._pool.hosts(watch.key):
            if host.address not in addresses:
                # Serve is stopping this host. It may finish its batches and gets no new ones.
                self._drain(watch, host)
        for address in watch.connecting.keys() - addresses:
            watch.connecting[address].cancel()
        if others:
            watch.fail(_wrong_files(watch, others[0]))
        elif self.is_warm(watch.key):
            watch.recover()
        self.report_usage(watch.key)

    def _drain(self, watch: Watch, host: HostConnection) -> None:
        self._pool.remove(watch.key, host)
        self._draining[host] = watch

    def _close_drained(self) -> None:
        for host in [host for host in self._draining if not host.in_flight]:
            host.close()
            del self._draining[host]

    async def _describe(self, watch: Watch, app: str | None) -> list[HostDescription] | None:
        """Return the descriptions of all hosts of a generation, or None if one did not answer."""
        if app is None:
            return []
        hosts: list[HostDescription] | None = None
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                hosts = await self._registry.describe(app)
        except Exception as error:  # a starting application has no replicas yet
            logger.debug("no description of the hosts of %s: %r", watch.key, error)
        if not hosts and not self._pool.hosts(watch.key):
            await self._find_failure(watch, app)
        return hosts

    async def _find_failure(self, watch: Watch, app: str) -> None:
        """Record why a generation has no hosts, if the registry knows."""
        now = time.monotonic()
        if now - watch.failure_checked_at < FAILURE_PERIOD_S:
            return
        watch.failure_checked_at = now
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                error = await self._registry.failure(app)
            if error is not None:  # else it may be starting again, which does not mean that it can
                watch.fail(error)
        except Exception as error:
            logger.debug("no status of the hosts of %s: %r", watch.key, error)

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
                if each.has_served or self._may_time.is_set():
                    connect = self._connect(watch, address, is_known=each.has_served)
                    watch.connecting[address] = self._start(connect)

    async def _connect(self, watch: Watch, address: str, *, is_known: bool) -> None:
        """Connect to a host, time it through the link if necessary, and add it to the pool.

        A published one that `is_known` to serve is added first.
        """
        key = watch.key

        def on_lost() -> None:
            # A host that Serve has stopped is not in the pool any more.
            if self._pool.remove(key, host):
                self._telemetry.host_lost(key)
                logger.error("a host was lost", extra={"variant": key, "host": address})
                self._wake.set()

        began = time.monotonic()
        host = HostConnection(address, on_lost)
        try:
            await host.run(zero_batch(self._model, min(watch.sizes)))
            if is_known and watch.is_awaited:
                self._start(self._time_in_use(watch, host))
            else:
                await self._time(watch, host)
        except (HostLost, BatchFailed) as error:
            host.close()
            # A busy machine may have stopped the process of a host, or of this gateway, once.
            is_second = watch.lost_at is not None and watch.lost_at < began
            if is_second or isinstance(error, BatchFailed):
                watch.fail(f"a host failed to warm up: {error}")
            elif watch.lost_at is None:
                watch.lost_at = time.monotonic()
            logger.error("a host failed to warm up", extra={"variant": key, "cause": str(error)})
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

    async def _time_in_use(self, watch: Watch, host: HostConnection) -> None:
        """Time a host that is in the pool already; it may get requests meanwhile."""
        await self._may_time.wait()
        try:
            await self._time(watch, host)
        except (HostLost, BatchFailed, KeyError) as error:  # it, or its generation, has gone
            logger.debug("a host of %s could not be timed: %r", watch.key, error)

    async def _time(self, watch: Watch, host: HostConnection) -> None:
        """Calibrate the latency model by the first host of each node."""
        async with self._timing:  # timings would distort each other
            node = host.address.rpartition(":")[0]
            if node in watch.timed_nodes:
                # Timings would take CPU from hosts that serve, and be distorted by their load.
                return
            within_s = math.inf if watch.is_awaited else TIMING_S
            timings = await time_host(host, self._model, watch.sizes, self._pause, within_s)
            self._latency.calibrate(watch.key, *timings)
            watch.timed_nodes.add(node)


def _wrong_files(watch: Watch, digest: str) -> str:
    return (
        f"a host has loaded other files than generation {watch.generation} of {watch.variant} has "
        f"in the catalog (digest {digest[:12]} instead of {watch.digest[:12]}): put these back and "
        "restart the host, or restart the service"
    )
