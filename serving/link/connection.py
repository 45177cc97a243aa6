"""The gateway's end of the link to one host replica: a DEALER socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, HostLost
from serving.link.wire import configure, pack, unpack

logger = logging.getLogger(__name__)

BATCH_TIMEOUT_S: Final = 30.0
"""Time limit, in seconds, for the answer to a batch. A host that exceeds it is considered lost."""


class BatchFailed(Exception):
    """The host answered with an error, which the batch or the variant caused."""


class HostConnection:
    """A connection to one host replica."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, on_lost: Callable[[], None]
    ) -> None:
        """Connect. `on_lost` is called once, when the host is gone."""
        self.address = address
        self.is_lost = False
        self._on_lost = on_lost
        self._answers: dict[int, asyncio.Future[BatchResult[Arrays]]] = {}
        self._number = 0
        self._socket = context.socket(zmq.DEALER)
        configure(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    @property
    def in_flight(self) -> int:
        """Number of batches that the host has not answered yet."""
        return len(self._answers)

    async def run(self, inputs: Arrays) -> BatchResult[Arrays]:
        """Run one batch on the host.

        Raises `HostLost` if the host goes away or does not answer, `BatchFailed` if it answers
        with an error.
        """
        if self.is_lost:
            raise HostLost(self.address)
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        answer: asyncio.Future[BatchResult[Arrays]] = loop.create_future()
        self._answers[number] = answer
        timeout = loop.call_later(BATCH_TIMEOUT_S, self._lose)
        try:
            await self._socket.send_multipart(pack(inputs, id=number), copy=False)
            return await answer
        finally:
            timeout.cancel()
            self._answers.pop(number, None)

    def close(self) -> None:
        """Disconnect without calling `on_lost`, even if batches are in flight."""
        if self.is_lost:
            return
        self.is_lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(HostLost(self.address))
        for task in self._tasks:
            task.cancel()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _lose(self) -> None:
        if self.is_lost:
            return
        self.close()
        self._on_lost()

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            try:
                header, outputs = unpack(frames)
                self._resolve(header, outputs)
            except (TypeError, ValueError) as error:
                logger.error(
                    "a host sent a malformed answer",
                    extra={"host": self.address, "cause": str(error)},
                )
                self._lose()
                return

    def _resolve(self, header: Mapping[str, Any], outputs: Arrays) -> None:
        answer = self._answers.get(header["id"])
        if answer is None or answer.done():
            return  # its batch was cancelled
        if "error" in header:
            answer.set_exception(BatchFailed(str(header["error"])))
        else:
            answer.set_result(BatchResult(outputs, float(header.get("compute_s", 0.0))))

    async def _watch(self) -> None:
        await recv_monitor_message(self._monitor)
        self._lose()
