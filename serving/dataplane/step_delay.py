"""Delays the planner's step while the event loop is busy and goes on reading requests.

A batch costs the event loop as much as several requests do. If a step followed each read, a busy
gateway would send many small batches and have less time for requests. A step therefore waits for
the next iteration of the loop as long as each iteration brings requests, but only for a small part
of the time that they have left. An idle loop does not delay it, and neither does a long iteration:
the step comes at once when a full batch was queued or the delay is over.
"""

from __future__ import annotations

import math
from typing import Final

MAX_DELAY_S: Final = 0.005
"""Maximum delay of a step, in seconds."""

MAX_DELAY_SHARE: Final = 0.3
"""Maximum delay as a share of the time that a request has left when it is queued."""


class StepDelay:
    """Follows the requests that are queued between two steps. Times are in seconds."""

    def __init__(self, full: int) -> None:
        """`full` is the number of requests of a full batch."""
        self._full = full
        self.is_busy = False
        """Whether iterations of the event loop still brought requests when the last step was due.
        The loop is then the bottleneck, and hosts need not be given work at once."""
        self._until = math.inf
        """When the next step is due at the latest; infinite before the first request."""
        self._count = 0
        """Number of requests that were queued since the last step."""
        self._has_new = False
        """Whether a request was queued in this iteration of the event loop."""

    def record_request(self, now: float, left_s: float) -> bool:
        """Record that a request was queued whose deadline is in `left_s`.

        Returns whether to step now: an iteration that reads many requests takes long, and a step at
        its end would find hosts that have been idle.
        """
        self._has_new = True
        self._count += 1
        self._until = min(self._until, now + min(MAX_DELAY_S, MAX_DELAY_SHARE * left_s))
        if self._count < self._full and now < self._until:
            return False
        self.is_busy = True
        self._restart()
        return True

    def starts(self) -> None:
        """Record that a step is scheduled for the next iteration."""
        self._has_new = False

    def is_over(self, now: float, *, is_full: bool) -> bool:
        """Return whether to step now. Call it once in each iteration of the event loop.

        `is_full` is whether the queue holds a full batch already, which cannot get larger.
        """
        has_new, self._has_new = self._has_new, False
        is_busy = has_new and (is_full or now >= self._until)
        if has_new and not is_busy:
            return False
        self.is_busy = is_busy
        self._restart()
        return True

    def _restart(self) -> None:
        self._until, self._count = math.inf, 0
