"""Paces refusals, so that they take only a small share of the gateway's time.

A client in a closed loop sends again as soon as it is refused. If all refusals were sent at once,
the gateway, and a machine that it shares with its clients, would be busy with nothing else.
"""

from __future__ import annotations

from typing import Final

INTERVAL_S: Final = 0.004
"""Mean interval of refusals, in seconds, while there are many. A refusal takes a small part of it:
0.05 to 0.1 ms over HTTP, 0.3 ms over gRPC."""

BURST_S: Final = 0.1
"""Refusals up to this time ahead of the pace are sent at once, in seconds."""

SPREAD: Final = 0.5
"""Share of the maximum time over which refusals are spread that would be held longer."""

GOLDEN_RATIO: Final = 0.618
"""Step of the sequence by which they are spread; its values are far apart from each other."""

MAX_HOLD_S: Final = 1.0
"""Maximum time, in seconds, for which a refusal is held: what Retry-After asks for."""


class RefusalPacer:
    """Spaces refusals evenly while there are many."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._phase = 0.0
        """A low-discrepancy sequence in the range from 0 to 1."""

    def hold_s(self, now: float) -> float:
        """Return how long to hold a refusal, in seconds; 0 while there are few."""
        at, last = max(now, self._next_at), now + BURST_S + MAX_HOLD_S
        if at > last:
            # Clients that were refused together would otherwise come back together.
            self._phase = (self._phase + GOLDEN_RATIO) % 1.0
            return MAX_HOLD_S * (1 - SPREAD * self._phase)
        self._next_at = at + INTERVAL_S
        return max(0.0, at - now - BURST_S)
