"""The gateway's end of the link to one host replica: a DEALER socket.

Sending is synchronous and an answer is passed to a callback: a batch does not wait for further
iterations of a busy event loop, as it would on its way through tasks and futures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import zmq

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, HostLost, OnOutcome, Outcome
from serving.link.wire import configure, pack, unpack

logger = logging.getLogger(__name__)

BATCH_TIMEOUT_S: Final = 30.0
"""Time limit, in seconds, for the answer to a batch. A host that exceeds it is considered lost."""


class BatchFailed(Exception):
    """The host answered with an error, which the batch or the variant caused."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A batch that the host has not answered."""

    on_outcome: OnOutcome[Arrays]
    timeout: asyncio.TimerHandle


class HostConnection:
    """A connection to one host replica."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, on_lost: Callable[[], None]
    ) -> None:
        """Connect. `on_lost` is called once, when the host is gone."""
        self.address = address
        self.is_lost = False
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._socket = context.socket(zmq.DEALER)
        configure(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._loop.add_reader(_descriptor(self._socket), self._receive)
        self._loop.add_reader(_descriptor(self._monitor), self._check_monitor)
        # The descriptors signal messages only after a socket was found empty once.
        _is_readable(self._socket)
        _is_readable(self._monitor)

    @property
    def in_flight(self) -> int:
        """Number of batches that the host has not answered yet."""
        return len(self._calls)

    def send(self, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> int:
        """Send one batch, and call `on_outcome` later with its result or its failure.

        The failure is `HostLost` if the host goes away or does not answer, `BatchFailed` if it
        answers with an error. Returns the number of the batch, for `forget`. Raises `HostLost` if
        the host is gone already.
        """
        if self.is_lost:
            raise HostLost(self.address)
        self._number += 1
        number = self._number
        self._socket.send_multipart(pack(inputs, id=number), flags=zmq.NOBLOCK, copy=False)
        timeout = self._loop.call_later(BATCH_TIMEOUT_S, self._lose)
        self._calls[number] = _Call(on_outcome, timeout)
        # The file descriptor signals changes only, and sending may have consumed such a signal.
        if _is_readable(self._socket):
            self._loop.call_soon(self._receive)
        return number

    def forget(self, number: int) -> None:
        """Discard the answer to a batch. Its callback is not called."""
        call = self._calls.pop(number, None)
        if call is not None:
            call.timeout.cancel()

    async def run(self, inputs: Arrays) -> BatchResult[Arrays]:
        """Run one batch on the host and return its result; raises the failures of `send`."""
        future: asyncio.Future[BatchResult[Arrays]] = self._loop.create_future()

        def resolve(outcome: Outcome[Arrays]) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        number = self.send(inputs, resolve)
        try:
            return await future
        finally:
            self.forget(number)

    def close(self) -> None:
        """Disconnect without calling `on_lost`, even if batches are in flight."""
        if not self.is_lost:
            self._disconnect()
            self._fail_calls()

    def _lose(self) -> None:
        if not self.is_lost:
            self._disconnect()
            self._on_lost()  # before the batches fail, so that none is sent to this host again
            self._fail_calls()

    def _disconnect(self) -> None:
        self.is_lost = True
        self._loop.remove_reader(_descriptor(self._socket))
        self._loop.remove_reader(_descriptor(self._monitor))
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _fail_calls(self) -> None:
        for number in list(self._calls):
            self._resolve(number, HostLost(self.address))

    def _receive(self) -> None:
        """Pass on all answers that have arrived."""
        while not self.is_lost:
            try:
                frames = self._socket.recv_multipart(flags=zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                header, outputs = unpack(frames)
                number, outcome = header["id"], _outcome(header, outputs)
            except (TypeError, ValueError) as error:
                logger.error(
                    "a host sent a malformed answer",
                    extra={"host": self.address, "cause": str(error)},
                )
                self._lose()
                return
            self._resolve(number, outcome)

    def _resolve(self, number: int, outcome: Outcome[Arrays]) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return  # it was answered already, or forgotten
        call.timeout.cancel()
        try:
            call.on_outcome(outcome)
        except Exception:  # the other batches of this host must be answered all the same
            logger.exception("the answer of a host could not be processed")

    def _check_monitor(self) -> None:
        if _is_readable(self._monitor):
            self._lose()


def _outcome(header: Mapping[str, Any], outputs: Arrays) -> BatchResult[Arrays] | BatchFailed:
    if "error" in header:
        return BatchFailed(str(header["error"]))
    return BatchResult(outputs, float(header.get("compute_s", 0.0)))


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(zmq.FD))


def _is_readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
