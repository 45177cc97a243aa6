"""The gateway's end of the link to one host replica: a stream socket on the event loop.

Sending is synchronous and an answer is passed to a callback: a batch does not wait for further
iterations of a busy event loop, as it would on its way through tasks and futures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, OnOutcome
from serving.link import liveness
from serving.link.calls import BatchFailed, Connection
from serving.link.endpoint import connect
from serving.link.stream import MessageStream
from serving.link.wire import MalformedMessage, Message, pack, unpack

logger = logging.getLogger(__name__)


class HostConnection(Connection):
    """A connection to one host replica."""

    def __init__(self, address: str, on_lost: Callable[[], None]) -> None:
        """Connect to an address such as `tcp://10.0.0.7:4000`.

        `on_lost` is called once, when the host is gone, and not before this returns.
        """
        super().__init__(address, on_lost)
        self._silent_ms = 0
        """Time without a byte from the host, as the sum of the intervals between two checks.

        While this process is stopped, the host does not become older.
        """
        self._heard_bytes = 0
        connection, error = connect(address)
        self._stream = MessageStream(connection)
        self._loop.add_reader(self._stream.fileno(), self._receive)
        self._check_later()
        if error:
            self._loop.call_soon(self._lose)

    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch; see `Connection.send`. Raises `ValueError` if it is too large."""
        number = self._next_number()
        try:
            self._stream.send(pack(number, inputs))
        except OSError:
            self._loop.call_soon(self._lose)  # the caller expects no callback before this returns
        self._record(number, on_outcome)
        if self._stream.has_unsent:
            self._loop.add_writer(self._stream.fileno(), self._flush)
        return number

    def _disconnect(self) -> None:
        super()._disconnect()
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._stream.close()

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
        if self._is_late() or self._silent_ms >= liveness.SILENCE_MS:
            self._lose()
        else:
            self._check_later()


def _outcome(message: Message) -> BatchResult[Arrays] | BatchFailed:
    if message.error is not None:
        return BatchFailed(message.error)
    return BatchResult(message.tensors, message.compute_s)
