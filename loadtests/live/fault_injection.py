"""Kills hosts of a running service at a fixed interval and measures when each one is back.

    variants, in rotation ─▶ Registry: processes of their hosts ─▶ SIGKILL ─▶ HostKill

Only processes that a host of this service reports as its own are killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serving.gateway.description import HostDescription
from serving.gateway.registry import Registry

logger = logging.getLogger(__name__)

POLL_S: Final = 0.1
"""Interval between checks whether a host is back, in seconds: the resolution of `back_after_s`."""

DESCRIBE_TIMEOUT_S: Final = 1.0
"""Time allowed for the descriptions of all hosts of a variant, in seconds."""
RECOVERY_TIMEOUT_S: Final = 60.0
"""Time allowed for killed hosts to come back after the last kill, in seconds."""


@dataclass(frozen=True, slots=True)
class HostKill:
    """One killed host process."""

    variant: str
    at_s: float
    """Time of the kill, as `time.monotonic()`, which all processes of a machine share."""
    back_after_s: float | None
    """Time until the variant was ready with as many hosts as before; None if it was not seen."""


class HostKiller:
    """Kills hosts of one service. `kills` lists the kills so far."""

    def __init__(
        self,
        registry: Registry,
        is_ready: Callable[[str], Awaitable[bool]],
        kill: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL),
    ) -> None:
        """`is_ready` returns whether a gateway has hosts of a variant; `kill` ends a process."""
        self._registry = registry
        self._is_ready = is_ready
        self._kill = kill
        self._apps: dict[tuple[str, int], str] = {}
        self._watches: list[tuple[str, float, asyncio.Task[float]]] = []

    @property
    def kills(self) -> tuple[HostKill, ...]:
        """Every kill, in order."""
        return tuple(
            HostKill(variant, at_s, watch.result() if _is_completed(watch) else None)
            for variant, at_s, watch in self._watches
        )

    async def run(self, variants: Sequence[str], every_s: float, until_s: float) -> None:
        """Kill a host at every multiple of `every_s` before `until_s`.

        Variants are taken in rotation, and so are the hosts of each. A variant without hosts is
        skipped. Raises what the registry raises if it does not know the applications.
        """
        start_s = time.monotonic()
        self._apps = await self._registry.list_apps()
        number, turn = 1, 0
        while number * every_s < until_s:
            await asyncio.sleep(start_s + number * every_s - time.monotonic())
            number += 1
            for _ in variants:
                variant, rotation = variants[turn % len(variants)], turn // len(variants)
                turn += 1
                if await self._kill_host(variant, rotation):
                    break
            else:
                logger.warning("no variant has a host to kill")

    async def wait_for_hosts(self, timeout_s: float = RECOVERY_TIMEOUT_S) -> None:
        """Wait until every killed host is back or `timeout_s` has passed; then stop watching."""
        watches = [watch for *_, watch in self._watches]
        if watches:
            await asyncio.wait(watches, timeout=timeout_s)
        for watch in watches:
            watch.cancel()

    async def _kill_host(self, variant: str, rotation: int) -> bool:
        hosts = await self._describe_hosts(variant)
        if not hosts:
            return False
        pids = sorted(host.pid for host in hosts)
        victim = pids[rotation % len(pids)]
        at_s = time.monotonic()
        self._kill(victim)
        recovery = self._measure_recovery(variant, victim, len(pids), at_s)
        self._watches.append((variant, at_s, asyncio.create_task(recovery)))
        return True

    async def _measure_recovery(self, variant: str, victim: int, count: int, at_s: float) -> float:
        while True:
            await asyncio.sleep(POLL_S)
            pids = {host.pid for host in await self._describe_hosts(variant)} - {victim}
            if len(pids) >= count and await self._is_ready(variant):
                return time.monotonic() - at_s

    async def _describe_hosts(self, variant: str) -> list[HostDescription]:
        """Return the descriptions of a variant's hosts; an empty list unless all of them answer."""
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                apps = apps_of(variant, self._apps)
                return [host for app in apps for host in await self._registry.describe(app)]
        except Exception as error:  # a host that is dead or starting does not answer
            logger.debug("no answer from the hosts of %s: %r", variant, error)
            return []


async def list_ready_hosts(
    registry: Registry,
    is_ready: Callable[[str], Awaitable[bool]],
    variants: Sequence[str],
    timeout_s: float = RECOVERY_TIMEOUT_S,
) -> dict[str, tuple[int, ...]]:
    """Wait until every variant is ready; return the processes of its hosts by variant.

    Raises TimeoutError with the variant that is not ready after `timeout_s`.
    """
    hosts: dict[str, tuple[int, ...]] = {}
    until_s = time.monotonic() + timeout_s
    for variant in variants:
        while variant not in hosts:
            pids = await _list_pids(registry, variant)
            if pids and await is_ready(variant):
                hosts[variant] = pids
            elif time.monotonic() > until_s:
                raise TimeoutError(f"variant {variant} was not ready within {timeout_s:g} s")
            else:
                await asyncio.sleep(POLL_S)
    return hosts


async def _list_pids(registry: Registry, variant: str) -> tuple[int, ...]:
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            apps = apps_of(variant, await registry.list_apps())
            return tuple([host.pid for app in apps for host in await registry.describe(app)])
    except Exception as error:  # a host that is dead or starting does not answer
        logger.debug("no answer from the hosts of %s: %r", variant, error)
        return ()


def apps_of(variant: str, apps: Mapping[tuple[str, int], str]) -> list[str]:
    """Return the applications of all generations of a variant."""
    return [app for (name, _), app in apps.items() if name == variant]


def _is_completed(watch: asyncio.Task[float]) -> bool:
    return watch.done() and not watch.cancelled()
