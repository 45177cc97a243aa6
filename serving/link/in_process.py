"""A variant that is computed in the process of the gateway, on a thread of its own.

LocalConnection (event loop)  ──batch──▶  LocalHost  ──▶  run, on the compute thread
◀──outputs or error──

For pool and scheduler it is like a host in another process. There is no message: the compute thread
gets the arrays themselves. The runner releases the GIL while it computes, so the event loop runs
meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy.typing as npt

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, OnOutcome, Outcome
from serving.link.calls import BatchFailed, Connection

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


class LocalConnection(Connection):
    """A gateway's use of a host in its own process; like `HostConnection`.

    The host counts as lost if it takes longer than `BATCH_TIMEOUT_S` for a batch.
    """

    def __init__(self, host: LocalHost, on_lost: Callable[[], None]) -> None:
        """Use a host; see `Connection`."""
        super().__init__(host.address, on_lost)
        self._host = host
        self._check_later()

    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch; see `Connection.send`. The inputs must not change until it has ended."""
        number = self._next_number()
        self._record(number, on_outcome)
        self._host.submit(inputs, partial(self._pass_on, number))
        return number

    def _pass_on(self, number: int, outcome: Outcome[Arrays]) -> None:
        """Bring an outcome from the compute thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._resolve, number, outcome)

    def _check(self) -> None:
        """Give up a host that takes too long for a batch; called at intervals."""
        if self._is_late():
            self._lose()
        else:
            self._check_later()


def _owned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that a runner may use as it gets it from a message: aligned and writable.

    The inputs of a single request are views of what was received, at any position.
    """
    flags = array.flags
    return array if flags.owndata and flags.writeable and flags.c_contiguous else array.copy()
