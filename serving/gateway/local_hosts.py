"""The variants that a gateway computes in its own process, instead of in hosts.

    wanted generations ─▶ load, one at a time, on the thread `load` ─▶ LocalHost ─▶ discovery

To discovery they look like hosts: this is a registry, which also lists the hosts of all other
variants, and it connects to both. A generation that cannot be loaded is tried again after a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import psutil

from serving.dataplane.batching import Arrays
from serving.gateway.description import HostDescription
from serving.gateway.registry import Registry
from serving.link.calls import Connection
from serving.link.connection import HostConnection
from serving.link.in_process import LocalConnection, LocalHost
from serving.routing.generation import generation_key

logger = logging.getLogger(__name__)

NODE: Final = "in-gateway"
"""First part of the addresses of local hosts."""

FIRST_RETRY_S: Final = 5.0
"""Time, in seconds, before a generation that cannot be loaded is tried again; doubled each time."""

LAST_RETRY_S: Final = 300.0
"""Longest of these times, in seconds."""


class LoadedGeneration(NamedTuple):
    """A generation that can compute."""

    run: Callable[[Arrays], Arrays]
    provider: str
    """What executes it; see `variants.catalog.device`."""
    digest: str
    """Digest of the files that were loaded; see `generations.digest`."""


Load: TypeAlias = Callable[[str, int], LoadedGeneration]
"""Loads and warms up a generation of a variant; called on a thread. Raises if that fails."""


@dataclass(eq=False)
class _Local:
    """A generation that is wanted."""

    address: str
    host: LocalHost | None = None
    description: HostDescription | None = None
    loading: asyncio.Task[None] | None = None
    error: str | None = None
    """Why it could not be loaded."""
    failures: int = 0
    retry_at: float = 0.0


class LocalHosts:
    """Loads generations into this process; a registry of them and of all other hosts."""

    def __init__(
        self, load: Load, is_local: Callable[[str], bool], others: Registry | None
    ) -> None:
        """`is_local` returns whether a variant is computed here.

        `others` lists the hosts of all other variants; None if there are none.
        """
        self._load = load
        self._is_local = is_local
        self._others = others
        self._locals: dict[tuple[str, int], _Local] = {}
        # One at a time: loads would slow down each other, and the memory of each is measured.
        self._loader = ThreadPoolExecutor(1, "load")

    def want(self, generations: Collection[tuple[str, int]]) -> None:
        """Load these generations, as far as they are local, and release all others.

        Call this on the event loop whenever they may have changed, and at least every few seconds.
        """
        wanted = {key for key in generations if self._is_local(key[0])}
        for key in self._locals.keys() - wanted:
            _release(self._locals.pop(key))
        for key in sorted(wanted - self._locals.keys()):
            self._locals[key] = _Local(f"{NODE}:{generation_key(*key)}")
        now = time.monotonic()
        for key, local in self._locals.items():
            if local.host is None and local.loading is None and now >= local.retry_at:
                local.loading = asyncio.create_task(self._load_one(key, local))

    def connect(self, address: str, on_lost: Callable[[], None]) -> Connection:
        """Connect to a host, in this process or another."""
        for local in self._locals.values():
            if local.address == address and local.host is not None:
                return LocalConnection(local.host, on_lost)
        return HostConnection(address, on_lost)

    async def list_apps(self) -> dict[tuple[str, int], str]:
        """Return the names of the applications of hosts, and the addresses of local hosts."""
        apps = {} if self._others is None else await self._others.list_apps()
        remote = {key: app for key, app in apps.items() if not self._is_local(key[0])}
        return remote | {key: local.address for key, local in self._locals.items()}

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application, or of a local host.

        Raises if one is missing.
        """
        local = self._find(app)
        if local is not None and local.description is not None:
            return [local.description]
        if local is not None or self._others is None:
            raise LookupError(f"{app} is not loaded")
        return await self._others.describe(app)

    async def failure(self, app: str) -> str | None:
        """Return why an application or a local host cannot start; None if nothing is known."""
        local = self._find(app)
        if local is not None or self._others is None:
            return local.error if local is not None else None
        return await self._others.failure(app)

    def check_health(self) -> None:
        """Raise `RuntimeError` if a compute thread has ended."""
        for local in self._locals.values():
            if local.host is not None and not local.host.is_alive:
                raise RuntimeError(f"the compute thread of {local.address} has ended")

    def close(self) -> None:
        """Release all generations."""
        self.want(())
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _find(self, app: str) -> _Local | None:
        return next((local for local in self._locals.values() if local.address == app), None)

    async def _load_one(self, key: tuple[str, int], local: _Local) -> None:
        loop = asyncio.get_running_loop()
        try:
            loaded, size = await loop.run_in_executor(self._loader, self._load_measured, key)
        except Exception as error:
            logger.exception("a variant cannot be loaded", extra={"variant": generation_key(*key)})
            local.error = str(error) or type(error).__name__
            delay_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2**local.failures)
            local.failures += 1
            local.retry_at = time.monotonic() + delay_s
        else:
            local.host = LocalHost(loaded.run, local.address)
            local.description = HostDescription(
                address=local.address,
                pid=os.getpid(),
                resident_bytes=size,
                gpu_memory_bytes=None,
                provider=loaded.provider,
                digest=loaded.digest,
                served_for_s=0.0,
            )
        finally:
            local.loading = None

    def _load_measured(self, key: tuple[str, int]) -> tuple[LoadedGeneration, int]:
        """Load a generation; also return by how many bytes this process has grown meanwhile."""
        process = psutil.Process()
        before = process.memory_info().rss
        loaded = self._load(*key)
        return loaded, max(0, process.memory_info().rss - before)


def _release(local: _Local) -> None:
    """Let the batches that were sent be computed, then free the memory."""
    if local.loading is not None:
        local.loading.cancel()
    if local.host is not None:
        local.host.close()
