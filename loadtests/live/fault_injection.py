"""Kills hosts of a running service, one every so many seconds, and sees when each is back.

    variants, in turns ─▶ Registry: its hosts' processes ─▶ SIGKILL ─▶ Kill

No process is killed but one that a host of this service said to be its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serving.gateway.description import HostDescription
from serving.gateway.discovery import Registry

logger = logging.getLogger(__name__)

POLL_S: Final = 0.1
"""How exactly it is known when a host is back."""

ANSWER_WITHIN_S: Final = 1.0
BACK_WITHIN_S: Final = 60.0
"""How long the last hosts are waited for, once no more are killed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One host process, killed."""

    variant: str
    at_s: float
    """By `time.monotonic()`, which all processes of a machine share."""
    back_after_s: float | None
    """Until the variant had as many hosts as before and was ready; None if it was not seen to."""


class Killer:
    """Kills hosts of one service; `kills` are those so far."""

    def __init__(
        self,
        registry: Registry,
        is_ready: Callable[[str], Awaitable[bool]],
        end: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL),
    ) -> None:
        """`is_ready` tells whether a gateway has hosts of a variant; `end` kills a process."""
        self._registry = registry
        self._is_ready = is_ready
        self._end = end
        self._apps: dict[str, list[str]] = {}
        self._watches: list[tuple[str, float, asyncio.Task[float]]] = []

    @property
    def kills(self) -> tuple[Kill, ...]:
        """Every kill, in order."""
        return tuple(
            Kill(variant, at_s, watch.result() if _is_known(watch) else None)
            for variant, at_s, watch in self._watches
        )

    async def run(self, variants: Sequence[str], every_s: float, until_s: float) -> None:
        """Kill a host at `every_s`, twice that, and so on before `until_s`.

        Variants take turns, and the hosts of each; one that has no host then is passed over.
        Raises what the registry raises if it does not know the applications.
        """
        start_s = time.monotonic()
        self._apps = await self._registry.list_apps()
        number, turn = 1, 0
        while number * every_s < until_s:
            await asyncio.sleep(start_s + number * every_s - time.monotonic())
            number += 1
            for _ in variants:
                variant, lap = variants[turn % len(variants)], turn // len(variants)
                turn += 1
                if await self._kill(variant, lap):
                    break
            else:
                logger.warning("no variant had a host to kill")

    async def wait_for_hosts(self, within_s: float = BACK_WITHIN_S) -> None:
        """Wait until every host that was killed is back, or so long; then look no more."""
        watches = [watch for *_, watch in self._watches]
        if watches:
            await asyncio.wait(watches, timeout=within_s)
        for watch in watches:
            watch.cancel()

    async def _kill(self, variant: str, lap: int) -> bool:
        hosts = await self._hosts(variant)
        if not hosts:
            return False
        pids = sorted(host.pid for host in hosts)
        victim = pids[lap % len(pids)]
        at_s = time.monotonic()
        self._end(victim)
        back = self._until_back(variant, victim, len(pids), at_s)
        self._watches.append((variant, at_s, asyncio.create_task(back)))
        return True

    async def _until_back(self, variant: str, victim: int, count: int, at_s: float) -> float:
        while True:
            await asyncio.sleep(POLL_S)
            pids = {host.pid for host in await self._hosts(variant)} - {victim}
            if len(pids) >= count and await self._is_ready(variant):
                return time.monotonic() - at_s

    async def _hosts(self, variant: str) -> list[HostDescription]:
        """Return what the hosts of a variant say; nothing if not all of them answer."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                apps = self._apps.get(variant, [])
                return [host for app in apps for host in await self._registry.describe(app)]
        except Exception as error:  # one that is dead, or starts, has no answer
            logger.debug("no answer from the hosts of %s: %r", variant, error)
            return []


def _is_known(watch: asyncio.Task[float]) -> bool:
    return watch.done() and not watch.cancelled()
