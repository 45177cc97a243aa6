"""The host's end of the link: a ROUTER socket that all gateways send their batches to.

HostConnection (gateway)  ──batch──▶  HostSocket  ──▶  run, on the compute thread
◀──outputs or error──
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from serving.dataplane.batching import Arrays
from serving.link.wire import MalformedMessage, configure, pack, unpack

logger = logging.getLogger(__name__)

STOP_POLL_MS: Final = 200
"""Interval, in milliseconds, at which an idle compute thread checks whether it should stop."""

DRAIN_POLL_S: Final = 0.02
"""Interval, in seconds, at which `drain` looks for the end of the traffic."""

UNKNOWN_ID: Final = 0
"""Id of the answer to a message whose own id could not be read. Gateways count from 1."""


class HostSocket:
    """Runs the batches of all gateways one after the other on a thread of its own."""

    def __init__(self, run: Callable[[Arrays], Arrays], bind: str = "127.0.0.1") -> None:
        """Bind to a free port of the address `bind` and start the compute thread."""
        self._run = run
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        port = self._socket.bind_to_random_port(f"tcp://{bind}")
        self.address = f"tcp://{bind}:{port}"
        self._last_batch_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the compute thread runs."""
        return self._thread.is_alive()

    def drain(self, quiet_s: float, within_s: float) -> None:
        """Return once no batch has arrived for `quiet_s`, or after `within_s`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < min(self._last_batch_at + quiet_s, deadline):
            time.sleep(DRAIN_POLL_S)

    def close(self) -> None:
        """Finish the current batch, then stop."""
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=1000)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(STOP_POLL_MS):
                identity, *frames = self._socket.recv_multipart(copy=False)
                self._last_batch_at = time.monotonic()
                self._socket.send_multipart([identity, *self._answer(frames)], copy=False)

    def _answer(self, frames: Sequence[zmq.Frame]) -> list[bytes | memoryview]:
        number = UNKNOWN_ID
        try:
            header, inputs = unpack(frames)
            number = header["id"]
            start = time.perf_counter()
            outputs = self._run(inputs)
            return pack(outputs, id=number, compute_s=time.perf_counter() - start)
        except MalformedMessage as error:
            logger.error("received a malformed message", extra={"cause": str(error)})
            return pack({}, id=number, error=f"the message is malformed: {error}")
        except Exception as error:
            logger.exception("a batch failed")
            return pack({}, id=number, error=f"the batch failed: {type(error).__name__}")
