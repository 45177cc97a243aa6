"""Records the events of each request: cheap to write during a run, evaluated after it."""

from __future__ import annotations

import asyncio
import math
from array import array
from typing import Final

NO_RESPONSE: Final = 0
"""Stands for the HTTP status of a request without a response."""
DISCONNECTED: Final = -1
"""Stands for the HTTP status of a request whose connection was lost or could not be opened."""


class RequestLog:
    """Times and responses by request. Times are those of `time.monotonic()`; NaN if none."""

    def __init__(self, count: int) -> None:
        self.due_s = array("d", [math.nan]) * count
        """When the client processed the arrival of the request."""
        self.sent_s = array("d", [math.nan]) * count
        self.finished_s = array("d", [math.nan]) * count
        self.http_status = array("h", [NO_RESPONSE]) * count
        self.contents = [b""] * count
        """The JSON part of the body of a 200 response, or the beginning of another response."""
        self.all_finished = asyncio.Event()
        self._open = count

    def record_response(self, number: int, now_s: float, status: int, content: bytes) -> None:
        """Record a response of any status."""
        self.finished_s[number] = now_s
        self.http_status[number] = status
        self.contents[number] = content
        self._finish()

    def record_disconnect(self, number: int) -> None:
        """Record that a request cannot get a response."""
        self.http_status[number] = DISCONNECTED
        self._finish()

    def _finish(self) -> None:
        self._open -= 1
        if not self._open:
            self.all_finished.set()
