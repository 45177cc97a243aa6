"""A variant that is computed in the process of the gateway, on a thread of its own.

LocalConnection (event loop)  ──batch──▶  LocalHost  ──▶  run, on the compute thread
◀──outputs or error──

For pool and scheduler it is like a host in another process. There is no message: the compute thread
gets the arrays themselves. The runner releases the GIL while it computes, so the event loop runs
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy.typing as npt

from serving.dataplane.awaiting import ended
from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, HostLost, OnOutcome, Outcome
from serving.link import liveness
from serving.link.connection import BATCH_TIMEOUT_S, BatchFailed

logger = logging.getLogger(__name__)


class _Batch(NamedTuple):
    """A batch for the compute thread."""

    inputs: Arrays
    on_outcome: OnOutcome[Arrays]
    """Is called on the compute thread."""


class LocalHost:
    """Runs batches one after the other on a thread of its own."""

    def __init__(self, run: Callable[[Arrays], Arrays], address: str) -> None:
        """Start the compute thread. `address` identifies this host in this process."""
        self.address = address
        self._run = run
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the compute thread runs."""
        return self._thread.is_alive()

    def submit(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
        """Compute a batch after those before it; `on_outcome` is called on the compute thread."""
        self._batches.put(_Batch(inputs, on_outcome))

    def close(self) -> None:
        """End the compute thread after the batches that were submitted; do not wait for it."""
        self._batches.put(None)

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.on_outcome(self._compute(batch.inputs))
            del batch  # it would keep its arrays until the next one arrives

    def _compute(self, inputs: Arrays) -> Outcome[Arrays]:
        try:
            owned = {name: _owned(array) for name, array in inputs.items()}
            start = time.perf_counter()
            outputs = self._run(owned)
            return BatchResult(outputs, time.perf_counter() - start)
        except Exception as error:
            logger.exception("a batch failed")
            return BatchFailed(f"the batch failed: {type(error).__name__}")


class _Call(NamedTuple):
    """A batch that the host has not answered."""

    on_outcome: OnOutcome[Arrays]
    sent_at: float


class LocalConnection:
    """A gateway's use of a host in its own process; like `HostConnection`."""

    def __init__(self, host: LocalHost, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once if the host takes longer than `BATCH_TIMEOUT_S` for a batch.

        It is checked every `HEARTBEAT_MS`.
        """
        self.address = host.address
        self.is_lost = False
        self._host = host
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        """Batches in flight by number, the oldest first."""
        self._number = 0
        self._next_check = self._loop.call_later(liveness.HEARTBEAT_MS / 1e3, self._check)

    @property
    def in_flight(self) -> int:
        """Number of batches that the host has not answered yet."""
        return len(self._calls)

    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch, and call `on_outcome` later with its result or its failure.

        The failure is `HostLost` if the host takes too long, `BatchFailed` if its runner raises an
        exception. The inputs must not change until then. Returns the number of the batch, for
        `forget`. Raises `HostLost` if the host is lost already.
        """
        if self.is_lost:
            raise HostLost(self.address)
        self._number += 1
        self._calls[self._number] = _Call(on_outcome, self._loop.time())
        self._host.submit(inputs, partial(self._pass_on, self._number))
        return self._number

    def forget(self, number: int) -> None:
        """Discard the answer to a batch. Its callback is not called."""
        self._calls.pop(number, None)

    async def run(self, inputs: Arrays) -> BatchResult[Arrays]:
        """Run one batch on the host and return its result; raises the failures of `send`."""
        return await ended(partial(self.send, inputs), self.forget)

    def close(self) -> None:
        """Send no more batches, without calling `on_lost`. Those in flight fail with `HostLost`."""
        if not self.is_lost:
            self._disconnect()
            self._fail_calls()

    def _pass_on(self, number: int, outcome: Outcome[Arrays]) -> None:
        """Bring an outcome from the compute thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._resolve, number, outcome)

    def _resolve(self, number: int, outcome: Outcome[Arrays]) -> None:
        call = self._calls.pop(number, None)
        if call is not None:  # else it was forgotten, or the host was lost
            call.on_outcome(outcome)

    def _check(self) -> None:
        """Give up a host that takes too long for a batch; called at intervals."""
        oldest = next(iter(self._calls.values()), None)
        if oldest is not None and self._loop.time() - oldest.sent_at > BATCH_TIMEOUT_S:
            self._disconnect()
            try:
                self._on_lost()  # before the batches fail, so that none is sent to this host again
            finally:
                self._fail_calls()
        else:
            self._next_check = self._loop.call_later(liveness.HEARTBEAT_MS / 1e3, self._check)

    def _disconnect(self) -> None:
        self.is_lost = True
        self._next_check.cancel()

    def _fail_calls(self) -> None:
        for number in list(self._calls):
            self._resolve(number, HostLost(self.address))


def _owned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that a runner may use as it gets it from a message: aligned and writable.

    The inputs of a single request are views of what was received, at any position.
    """
    flags = array.flags
    return array if flags.owndata and flags.writeable and flags.c_contiguous else array.copy()
