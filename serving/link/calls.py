"""What a connection to a host has in common, wherever the host computes: its batches in flight.

send ─▶ call, by number ─▶ resolved with an outcome, forgotten, or failed because the host is lost
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from serving.dataplane.awaiting import ended
from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, HostLost, OnOutcome, Outcome
from serving.link import liveness

logger = logging.getLogger(__name__)

BATCH_TIMEOUT_S: Final = 30.0
"""Time limit, in seconds, for the answer to a batch. A host that exceeds it is considered lost.

It is checked every `HEARTBEAT_MS`.
"""


class BatchFailed(Exception):
    """The host answered with an error, which the batch or the variant caused."""


class _Call(NamedTuple):
    """A batch that the host has not answered."""

    on_outcome: OnOutcome[Arrays]
    sent_at: float


class Connection(ABC):
    """A gateway's connection to one host; its methods are called on the event loop."""

    def __init__(self, address: str, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called once, when the host is gone, and not before this returns.

        A subclass calls `_check_later` when it is connected.
        """
        self.address = address
        self.is_lost = False
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        """Batches in flight by number, the oldest first."""
        self._number = 0

    @property
    def in_flight(self) -> int:
        """Number of batches that the host has not answered yet."""
        return len(self._calls)

    @abstractmethod
    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch, and call `on_outcome` later with its result or its failure.

        The failure is `HostLost` if the host goes away or does not answer, `BatchFailed` if it
        answers with an error. Returns the number of the batch, for `forget`. Raises `HostLost` if
        the host is gone already.
        """

    def forget(self, number: int) -> None:
        """Discard the answer to a batch. Its callback is not called."""
        self._calls.pop(number, None)

    async def run(self, inputs: Arrays) -> BatchResult[Arrays]:
        """Run one batch on the host and return its result; raises the failures of `send`."""
        return await ended(partial(self.send, inputs), self.forget)

    def close(self) -> None:
        """Disconnect without calling `on_lost`, even if batches are in flight."""
        if not self.is_lost:
            self._disconnect()
            self._fail_calls()

    def _next_number(self) -> int:
        """Return the number of the next batch. Raises `HostLost` if the host is lost."""
        if self.is_lost:
            raise HostLost(self.address)
        self._number += 1
        return self._number

    def _record(self, number: int, on_outcome: OnOutcome[Arrays]) -> None:
        """Note that a batch is in flight."""
        self._calls[number] = _Call(on_outcome, self._loop.time())

    def _resolve(self, number: int, outcome: Outcome[Arrays]) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return  # it was answered already, or forgotten
        try:
            call.on_outcome(outcome)
        except Exception:  # the other batches of this host must be answered all the same
            logger.exception("the answer of a host could not be processed")

    def _is_late(self) -> bool:
        """Return whether the host takes too long for a batch."""
        oldest = next(iter(self._calls.values()), None)
        return oldest is not None and self._loop.time() - oldest.sent_at > BATCH_TIMEOUT_S

    @abstractmethod
    def _check(self) -> None:
        """Give up a host that does not answer, or check again later."""

    def _check_later(self) -> None:
        self._next_check = self._loop.call_later(liveness.HEARTBEAT_MS / 1e3, self._check)

    def _lose(self) -> None:
        if not self.is_lost:
            self._disconnect()
            try:
                self._on_lost()  # before the batches fail, so that none is sent to this host again
            finally:
                self._fail_calls()

    def _disconnect(self) -> None:
        self.is_lost = True
        self._next_check.cancel()

    def _fail_calls(self) -> None:
        for number in list(self._calls):
            self._resolve(number, HostLost(self.address))
