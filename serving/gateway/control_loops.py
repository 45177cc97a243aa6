"""What changes a gateway while it runs: its agent, and the reconciler of the service.

store ◀─▶ agent ─▶ gateway            in every gateway
store ◀─▶ reconciler ─▶ cluster       in the gateway that holds the lease
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final

from serving.control.agent import Agent
from serving.control.cluster import Cluster, GenerationKey
from serving.control.reconciler import Reconciler
from serving.control.store.store import Store
from serving.control.wake import wait_for_wake
from serving.gateway.gateway import Gateway
from serving.gateway.settings import Settings
from variants.catalog.storage import open_storage

logger = logging.getLogger(__name__)

BUSY_POLL_S: Final = 0.1
"""Interval of the reconciler, in seconds, while it waits for something to start or to end."""

PROBE_TIMEOUT_S: Final = 30.0
"""Time limit, in seconds, for the probe of a generation."""


class ControlLoops:
    """The agent and the reconciler of one gateway."""

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        cluster: Cluster,
        settings: Settings,
        excluded: frozenset[GenerationKey],
    ) -> None:
        """`excluded` generations are not served."""
        self._gateway = gateway
        self._store = store
        self._poll_s = settings.control.poll_s
        self._is_woken = asyncio.Event()
        """Set when the reconciler should look at once."""
        storage = open_storage(settings.artifacts)
        self._agent = Agent(
            gateway,
            store,
            settings.catalog,
            poll_s=self._poll_s,
            storage=storage,
            excluded=excluded,
            on_report=self._is_woken.set,
        )
        gateway.on_change = self._agent.look
        self._reconciler = Reconciler(
            gateway.name,
            store,
            cluster,
            self._probe,
            settings.catalog,
            replicas=settings.hosts.replicas,
            rollback_window_s=settings.control.rollback_window_s,
            kept_generations=settings.control.kept_generations,
            kept_jobs=settings.control.kept_jobs,
            kept_history=settings.control.kept_history,
            storage=storage,
            excluded=excluded,
            is_in_gateway=settings.hosts.is_in_gateway,
        )
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bring the gateway to the desired state, then keep following it.

        Raises if the store does not answer.
        """
        await self._agent.step()
        loops: tuple[Coroutine[Any, Any, None], ...] = (self._agent.run(), self._reconcile())
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    def check_health(self) -> None:
        """Raise `RuntimeError` if one of the loops has ended."""
        if any(task.done() for task in self._tasks):
            raise RuntimeError("a loop that follows the desired state has ended")

    async def close(self) -> None:
        """Stop following the desired state; let another gateway reconcile, and close the store."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        try:
            self._reconciler.release()
            self._store.forget(self._gateway.name)
        except Exception as error:  # others notice that the reports are missing
            logger.warning("the store does not answer", extra={"cause": str(error)})
        self._store.close()

    async def _reconcile(self) -> None:
        while True:
            self._is_woken.clear()
            is_busy = False
            try:
                is_busy = await asyncio.to_thread(self._reconciler.step)
            except Exception as error:  # the cluster or the store may be restarting
                logger.warning("the cluster cannot be reconciled", extra={"cause": repr(error)})
            if is_busy:
                self._agent.wake()
            pause_s = min(BUSY_POLL_S, self._poll_s) if is_busy else self._poll_s
            await wait_for_wake(self._is_woken, pause_s)

    def _probe(self, variant: str, generation: int) -> float:
        """Return the latency of a warm generation in seconds. To be called on a thread."""
        probe = asyncio.run_coroutine_threadsafe(
            self._gateway.probe(variant, generation), self._loop
        )
        return probe.result(PROBE_TIMEOUT_S)
