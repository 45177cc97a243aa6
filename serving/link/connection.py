"""The gateway's end of the link to one host replica: a stream socket on the event loop.

Sending is synchronous and an answer is passed to a callback: a batch does not wait for further
iterations of a busy event loop, as it would on its way through tasks and futures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from serving.dataplane.awaiting import ended
from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, HostLost, OnOutcome, Outcome
from serving.link import liveness
from serving.link.endpoint import connect
from serving.link.stream import MessageStream
from serving.link.wire import MalformedMessage, Message, pack, unpack

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


class HostConnection:
    """A connection to one host replica."""

    def __init__(self, address: str, on_lost: Callable[[], None]) -> None:
        """Connect to an address such as `tcp://10.0.0.7:4000`.

        `on_lost` is called once, when the host is gone, and not before this returns.
        """
        self.address = address
        self.is_lost = False
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        """Batches in flight by number, the oldest first."""
        self._number = 0
        self._silent_ms = 0
        """Time without a byte from the host, as the sum of the intervals between two checks.

        While this process is stopped, the host does not become older.
        """
        self._heard_bytes = 0
        connection, error = connect(address)
        self._stream = MessageStream(connection)
        self._loop.add_reader(self._stream.fileno(), self._receive)
        self._next_check = self._loop.call_later(liveness.HEARTBEAT_MS / 1e3, self._check)
        if error:
            self._loop.call_soon(self._lose)

    @property
    def in_flight(self) -> int:
        """Number of batches that the host has not answered yet."""
        return len(self._calls)

    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch, and call `on_outcome` later with its result or its failure.

        The failure is `HostLost` if the host goes away or does not answer, `BatchFailed` if it
        answers with an error. Returns the number of the batch, for `forget`. Raises `HostLost` if
        the host is gone already, `ValueError` if the batch is too large to be sent.
        """
        if self.is_lost:
            raise HostLost(self.address)
        self._number += 1
        number = self._number
        try:
            self._stream.send(pack(number, inputs))
        except OSError:
            self._loop.call_soon(self._lose)  # the caller expects no callback before this returns
        self._calls[number] = _Call(on_outcome, self._loop.time())
        if self._stream.has_unsent:
            self._loop.add_writer(self._stream.fileno(), self._flush)
        return number

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
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._stream.close()

    def _fail_calls(self) -> None:
        for number in list(self._calls):
            self._resolve(number, HostLost(self.address))

    def _flush(self) -> None:
        """Send more of the batches that the kernel did not accept at once."""
        try:
            self._stream.flush()
        except OSError:
            self._lose()
            return
        if not self._stream.has_unsent:
            self._loop.remove_writer(self._stream.fileno())

    def _receive(self) -> None:
        """Pass on all answers that have arrived."""
        while not self.is_lost:
            try:
                received = self._stream.receive()
                if received is None:
                    return
                message = unpack(received)
            except OSError:
                self._lose()
                return
            except MalformedMessage as error:
                logger.error(
                    "a host sent a malformed answer",
                    extra={"host": self.address, "cause": str(error)},
                )
                self._lose()
                return
            self._resolve(message.number, _outcome(message))
            if not self._calls:
                return  # to look for another answer would take a system call

    def _resolve(self, number: int, outcome: Outcome[Arrays]) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return  # it was answered already, or forgotten
        try:
            call.on_outcome(outcome)
        except Exception:  # the other batches of this host must be answered all the same
            logger.exception("the answer of a host could not be processed")

    def _check(self) -> None:
        """Give up a host that is silent or takes too long for a batch; called at intervals."""
        self._receive()  # what arrived while this process was stopped or busy
        if self.is_lost:
            return
        heard_bytes = self._stream.received_bytes
        self._silent_ms = (
            self._silent_ms + liveness.HEARTBEAT_MS if heard_bytes == self._heard_bytes else 0
        )
        self._heard_bytes = heard_bytes
        oldest = next(iter(self._calls.values()), None)
        is_late = oldest is not None and self._loop.time() - oldest.sent_at > BATCH_TIMEOUT_S
        if is_late or self._silent_ms >= liveness.SILENCE_MS:
            self._lose()
        else:
            self._next_check = self._loop.call_later(liveness.HEARTBEAT_MS / 1e3, self._check)


def _outcome(message: Message) -> BatchResult[Arrays] | BatchFailed:
    if message.error is not None:
        return BatchFailed(message.error)
    return BatchResult(message.tensors, message.compute_s)
