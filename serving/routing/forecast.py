"""What came of late, and so what may come while a core is held.

A batch cannot be interrupted: whatever arrives while it runs has to wait. `expected_misses(held_s)` says how
many requests that is expected to make late: windows of the arrivals of late, each beginning with an
arrival, since after one the next is likeliest, are replayed against a core that is free only after
`held_s`, and then serves all of them by the fastest variant of each. Bursts need no model that way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

MEMORY: Final = 512
"""Arrivals that are remembered."""

FEW: Final = 8
"""Fewer arrivals say nothing of a rate."""

SHORTEST_S: Final = 1e-6

STARTS: Final = 32
AHEAD: Final = 64
"""Windows that are replayed, and arrivals in each."""

SIZES: Final = (1, 2, 4, 8, 16, 32, AHEAD)
"""Numbers of samples that clearing times are asked for; in between they are linear."""

REFRESH_S: Final = 0.1
"""It costs half a millisecond: about once in so long."""

BEYOND: Final = 4.0
"""Losses are computed from a part of the shortest batch to so many times the longest deadline."""

TIGHT: Final = 0.1
"""Quantile of the times that arrivals allow: nearly all allow more."""

HOLDS: Final = 10
"""Holding times that losses are computed for; in between it is linear."""

FRESH_S: Final = 30.0

LONGEST: Final = 32
"""No core is held for longer than so many of the slowest clearings: farther deadlines are far."""

Clear = Callable[[int], float]
"""The time that the fastest variant needs for so many samples, one batch after another; 0 where
none is alive."""

Arrival: TypeAlias = tuple[float, int, float, tuple[str, ...]]
"""When, how many samples, how long they could wait, which variants qualified."""


class Forecast:
    """Remembers arrivals: when, how many samples, and how long they could wait."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque(maxlen=MEMORY)
        self._samples = 0
        self._holds: list[float] = [0.0]
        self._expected_misses: list[float] = [0.0]
        self.p10_slack_s = math.inf
        """Most arrivals allow at least so much time."""
        self.load = 0.0
        """What arrived, in what all cores could serve with the fastest variant for each."""
        self._computed_at = -math.inf
        self._is_new = False
        self._known = 0
        """As many arrivals were remembered at the last computation."""

    def arrived(self, now: float, size: int, left_s: float, variants: tuple[str, ...]) -> None:
        """Remember a request of `size` samples, due in `left_s`, for which `variants` qualify."""
        if len(self._arrivals) == MEMORY:
            self._samples -= self._arrivals[0][1]
        self._arrivals.append((now, size, left_s, variants))
        self._samples += size
        self._is_new = True

    def arrivals_per_s(self, now: float) -> float:
        """Return the samples that arrived per second, over what is remembered; 0 for too few."""
        if len(self._arrivals) < FEW:
            return 0.0
        first_at, first_size, *_ = self._arrivals[0]
        return (self._samples - first_size) / max(now - first_at, SHORTEST_S)

    def is_due(self, now: float) -> bool:
        """Return whether it is time to `refresh`."""
        if now - self._computed_at >= REFRESH_S:
            return self._is_new
        # While little is known, every doubling tells much.
        return len(self._arrivals) >= max(FEW, 2 * self._known)

    def refresh(self, now: float, clear: Callable[[tuple[str, ...]], Clear], cores: float) -> None:
        """Compute anew what holding a core may cost, from the arrivals that are remembered.

        `clear` gives, by the variants that qualify, the time to clear so many samples on one core;
        `cores` is how many batches run at a time.
        """
        self._computed_at, self._is_new, self._known = now, False, len(self._arrivals)
        arrivals = [each for each in self._arrivals if each[0] > now - FRESH_S]
        if len(arrivals) < 2 or all(math.isinf(each[2]) for each in arrivals):
            self._holds, self._expected_misses = [0.0], [0.0]
            self.load, self.p10_slack_s = 0.0, math.inf
            return
        kinds = {key: kind for kind, key in enumerate(dict.fromkeys(each[3] for each in arrivals))}
        clear_s = np.empty((len(kinds), AHEAD))
        for key, kind in kinds.items():
            clear_s[kind] = np.interp(np.arange(1, AHEAD + 1), SIZES, list(map(clear(key), SIZES)))
        at, size, left_s = (np.array(column) for column in list(zip(*arrivals, strict=True))[:3])
        kind_of = np.array([kinds[each[3]] for each in arrivals])
        finite = left_s[np.isfinite(left_s)]
        self.p10_slack_s = float(np.quantile(finite, TIGHT))
        self._holds = _holds(clear_s, float(finite.max()))
        each_s = _each_s(clear_s, left_s, kind_of)
        span_s = max(SHORTEST_S, at[-1] - at[0])
        self.load = float((each_s * size)[1:].sum() / span_s) / max(1.0, cores)
        self._expected_misses = _expected_misses(
            at, size, left_s, kind_of, clear_s / max(1.0, cores), self._holds
        )

    def expected_misses(self, held_s: float) -> float:
        """Return how many requests are expected to be late if a core is held for so long."""
        holds, expected_misses = self._holds, self._expected_misses
        place = bisect_left(holds, held_s)
        if place == 0:
            return expected_misses[0] * held_s / holds[0] if holds[0] else 0.0
        if place == len(holds):
            return expected_misses[-1] * held_s / holds[-1] if holds[-1] else 0.0
        low, high = holds[place - 1], holds[place]
        return expected_misses[place - 1] + (
            expected_misses[place] - expected_misses[place - 1]
        ) * (held_s - low) / (high - low)


def _holds(clear_s: npt.NDArray[np.float64], farthest_s: float) -> list[float]:
    """Return the holding times to compute losses for, rising."""
    alive_s = clear_s[clear_s[:, 0] > 0]
    if not alive_s.size:
        return [0.0]
    longest_s = max(0.0, min(BEYOND * farthest_s, LONGEST * float(alive_s.max())))
    shortest_s = min(float(alive_s.min()), longest_s) / BEYOND
    holds: list[float] = np.geomspace(
        SHORTEST_S + shortest_s, 2 * SHORTEST_S + longest_s, HOLDS
    ).tolist()
    return holds


def _each_s(
    clear_s: npt.NDArray[np.float64],
    left_s: npt.NDArray[np.float64],
    kinds: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return by arrival the time that a sample takes in batches of half the time it allows.

    That half is for the batch, the other for waiting (Nexus, SOSP'19).
    """
    sizes = np.arange(1, clear_s.shape[1] + 1)
    fitting = [np.searchsorted(row, left_s / 2, side="right") for row in clear_s]
    size = np.maximum(1, np.stack(fitting)[kinds, np.arange(len(kinds))])
    each_s: npt.NDArray[np.float64] = clear_s[kinds, size - 1] / sizes[size - 1]
    return each_s


def _expected_misses(
    at: npt.NDArray[np.float64],
    size: npt.NDArray[np.int64],
    left_s: npt.NDArray[np.float64],
    kind: npt.NDArray[np.int64],
    clear_s: npt.NDArray[np.float64],
    holds: Sequence[float],
) -> list[float]:
    """Return by holding time how many more are late than if the core were free at once."""
    ahead = min(AHEAD, len(at) - 1)
    last = len(at) - ahead
    starts = np.unique(np.linspace(0, last - 1, STARTS).astype(np.int64))
    window = starts[:, None] + np.arange(1, ahead + 1)
    offset = at[window] - at[starts][:, None]
    served = np.minimum(np.cumsum(size[window], axis=1), AHEAD) - 1
    needed = clear_s[kind[window], served]
    alone = clear_s[kind[window], np.minimum(size[window], AHEAD) - 1]
    due = offset + left_s[window]

    def late(held_s: float) -> float:
        # Who arrived while the core was held is cleared with the others, who came later after them.
        finish = np.maximum(held_s + needed, offset + alone)
        return float(np.count_nonzero(finish > due)) / len(starts)

    free = late(0.0)
    expected_misses = [max(0.0, late(held_s) - free) for held_s in holds]
    for place in range(1, len(expected_misses)):
        # A window ends, arrivals do not: losses grow at least as the time does.
        least = expected_misses[place - 1] * holds[place] / holds[place - 1]
        expected_misses[place] = max(expected_misses[place], least)
    return expected_misses
