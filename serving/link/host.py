"""The host's end of the link: it computes the batches that all gateways send.

HostConnection (gateway)  ──batch──▶  HostSocket  ──▶  run, on the compute thread
◀──outputs or error──
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from serving.dataplane.batching import Arrays
from serving.link.gateways import Gateways
from serving.link.wire import Buffer, MalformedMessage, Received, pack, pack_error, unpack

logger = logging.getLogger(__name__)

DRAIN_POLL_S: Final = 0.02
"""Interval, in seconds, at which `drain` looks for the end of the traffic."""


class HostSocket:
    """Runs the batches of all gateways one after the other on a thread of its own."""

    def __init__(self, run: Callable[[Arrays], Arrays], bind: str = "127.0.0.1") -> None:
        """Bind to a free port of the address `bind` and start the compute thread."""
        self._run = run
        self._gateways = Gateways(bind)
        self.address = self._gateways.address
        self._last_batch_at = time.monotonic()
        self._first_served_at: float | None = None
        """When the first batch had been computed."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while both threads run: the one that computes, and the one of `Gateways`."""
        return self._thread.is_alive() and self._gateways.is_alive

    @property
    def served_for_s(self) -> float:
        """Seconds since the first batch was computed, 0 if none was."""
        first = self._first_served_at
        return 0.0 if first is None else time.monotonic() - first

    def drain(self, quiet_s: float, within_s: float) -> None:
        """Return once no batch has arrived for `quiet_s`, or after `within_s`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < min(self._last_batch_at + quiet_s, deadline):
            time.sleep(DRAIN_POLL_S)

    def close(self) -> None:
        """Finish the current batch, then stop. Has no effect a second time."""
        if self._is_closed:
            return
        self._is_closed = True
        self._gateways.stop()
        self._thread.join()
        self._gateways.close()

    def _serve(self) -> None:
        while streams := self._gateways.wait():
            for stream in streams:
                received = self._gateways.receive(stream)
                if received is not None:
                    self._last_batch_at = time.monotonic()
                    self._gateways.send(stream, self._answer(received))

    def _answer(self, received: Received) -> list[Buffer]:
        number = received.number
        try:
            inputs = unpack(received).tensors
            start = time.perf_counter()
            outputs = self._run(inputs)
            took_s = time.perf_counter() - start
            if self._first_served_at is None:
                self._first_served_at = time.monotonic()
            return pack(number, outputs, took_s)
        except MalformedMessage as error:
            logger.error("received a malformed message", extra={"cause": str(error)})
            return pack_error(number, f"the message is malformed: {error}")
        except Exception as error:
            logger.exception("a batch failed")
            return pack_error(number, f"the batch failed: {type(error).__name__}")
