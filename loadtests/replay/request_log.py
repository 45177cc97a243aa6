"""What happens to each request, as it happens: cheap to write during a run, read after it."""

from __future__ import annotations

import asyncio
import math
from array import array
from typing import Final

NO_ANSWER: Final = 0
"""In place of an HTTP status, while there is none."""
DISCONNECTED: Final = -1
"""In place of an HTTP status: the connection was lost, or did not open."""


class RequestLog:
    """By request: when, and with what. Times are those of `time.monotonic()`; NaN is never."""

    def __init__(self, count: int) -> None:
        self.due_s = array("d", [math.nan]) * count
        """When the client came to it."""
        self.sent_s = array("d", [math.nan]) * count
        self.finished_s = array("d", [math.nan]) * count
        self.http_status = array("h", [NO_ANSWER]) * count
        self.kept = [b""] * count
        """Of an answer, the JSON part of its body; of another status, how it begins."""
        self.all_finished = asyncio.Event()
        self._open = count

    def answered(self, number: int, now_s: float, status: int, kept: bytes) -> None:
        """Note an answer, whatever its status."""
        self.finished_s[number] = now_s
        self.http_status[number] = status
        self.kept[number] = kept
        self._finish()

    def disconnected(self, number: int) -> None:
        """Note that the answer will not come."""
        self.http_status[number] = DISCONNECTED
        self._finish()

    def _finish(self) -> None:
        self._open -= 1
        if not self._open:
            self.all_finished.set()
