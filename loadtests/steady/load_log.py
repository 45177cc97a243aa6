"""Records the requests of a run whose number is not known in advance; cheap to write."""

from __future__ import annotations

import math
from array import array

from loadtests.replay.request_log import DISCONNECTED, NO_RESPONSE
from loadtests.steady.load import UNSENT


class LoadLog:
    """Columns by request, in the order in which the requests were due to the client."""

    def __init__(self, sample_every: int) -> None:
        """`sample_every` is the interval at which responses of status 200 are kept; 0: never."""
        self.due_s = array("d")
        self.ended_s = array("d")
        self.http_status = array("h")
        self.contents: dict[int, bytes] = {}
        self.open = 0
        """Number of requests that have not ended."""
        self._sample_every = sample_every
        self._until_sample = sample_every

    def add(self, due_s: float) -> int:
        """Add a request that is being sent; return its number."""
        self.due_s.append(due_s)
        self.ended_s.append(math.nan)
        self.http_status.append(NO_RESPONSE)
        self.open += 1
        return len(self.due_s) - 1

    def add_unsent(self, due_s: float, now_s: float) -> None:
        """Add a request that cannot be sent."""
        self.due_s.append(due_s)
        self.ended_s.append(now_s)
        self.http_status.append(UNSENT)

    def record_response(self, number: int, now_s: float, status: int, content: bytes) -> None:
        """Record a complete response."""
        self.ended_s[number] = now_s
        self.http_status[number] = status
        self.open -= 1
        if status == 200 and self._sample_every:
            self._until_sample -= 1
            if not self._until_sample:
                self._until_sample = self._sample_every
                self.contents[number] = content

    def record_disconnect(self, number: int, now_s: float) -> None:
        """Record that the connection of a request was lost, or could not be opened."""
        self.ended_s[number] = now_s
        self.http_status[number] = DISCONNECTED
        self.open -= 1
