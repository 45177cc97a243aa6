"""A replay of recent arrivals against a core that is occupied: how many requests would be late.

Windows of arrivals are replayed against a core that is free only after some time and then serves
each request with its fastest variant. No model of bursts is needed this way. When the next window
begins is predicted from the gaps before the windows: of the gaps that are longer than the present
silence, each is equally likely (an empirical hazard). After a silence longer than all gaps no
request is expected any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.routing.arrivals import MIN_SPAN_S, Arrival

EVEN_WINDOWS: Final = 32
"""Maximum number of windows at even distances."""

LONG_GAP_WINDOWS: Final = 16
"""Maximum number of windows after the longest gaps. Few of the other windows follow a long gap, but
they matter during a silence, for example between two bursts."""

WINDOW_ARRIVALS: Final = 64
"""Maximum number of arrivals in a window, and of samples that are waiting in it."""

END_WEIGHT: Final = 1.0
"""Weight of the possibility that no request follows, as a number of gaps."""

HOLD_COUNT: Final = 10
"""Number of occupation times for which misses are computed; misses in between are interpolated.
Misses are a convex function, so interpolation errs on the side of too many."""

HOLD_MARGIN: Final = 4.0
"""Occupation times range from 1 / `HOLD_MARGIN` of the shortest drain time to `HOLD_MARGIN` times
the longest deadline."""

MAX_HOLD_RATIO: Final = 32
"""Upper bound of the occupation times, as a multiple of the slowest drain time. It applies if
deadlines are far away."""

Floats: TypeAlias = npt.NDArray[np.float64]


class Replay:
    """The misses that recent arrivals would have had, by occupation time and silence before."""

    def __init__(self, arrivals: Sequence[Arrival], rows: Sequence[int], drain_s: Floats) -> None:
        """`arrivals` are at least two requests with deadlines, oldest first.

        `drain_s` has a row for each set of variants and a column for each number of samples from 1:
        the time in which all cores together serve them with the fastest variant. `rows` are the
        row numbers of the arrivals.
        """
        at, size, left_s = map(np.array, [*zip(*arrivals, strict=True)][:3])
        count = min(WINDOW_ARRIVALS, len(at) // 2)
        starts, self._weights = _window_starts(np.diff(at)[: len(at) - count])
        self._gaps_s: list[float] = (at[starts] - at[starts - 1]).tolist()
        self._gap_array_s = np.array(self._gaps_s)
        holds_s = _holds_s(drain_s, float(left_s.max()))
        self._holds_s = np.array([0.0, *holds_s])
        self._bucket_s = holds_s[0]
        window = starts[:, None] + np.arange(count)
        self._late = _late(
            at[window] - at[starts][:, None],
            size[window],
            left_s[window],
            np.array(rows)[window],
            drain_s,
            self._holds_s,
        )
        self._curves: dict[int, Callable[[float], float]] = {}
        """Cached results of `expected_misses` by silence in multiples of `_bucket_s`."""

    def expected_misses(self, silence_s: float) -> Callable[[float], float]:
        """Return a function that predicts the misses if a core is occupied from now on.

        The last request arrived `silence_s` ago. The argument of the function is the time, in
        seconds, for which the core is occupied.
        """
        if silence_s >= self._gaps_s[-1]:
            return no_misses
        bucket = int(silence_s / self._bucket_s)
        curve = self._curves.get(bucket)
        if curve is None:
            misses = self._misses_after(bucket * self._bucket_s)
            curve = partial(_interpolate, self._holds_s.tolist(), misses)
            self._curves[bucket] = curve
        return curve

    def _misses_after(self, silence_s: float) -> list[float]:
        """Return the expected misses by occupation time after a silence."""
        first = bisect_right(self._gaps_s, silence_s)
        late, weights = self._late[first:], self._weights[first:]
        # The window begins when the rest of the gap has passed; the core is occupied from then on
        # for the rest of the occupation time.
        holds_s = self._holds_s
        rest_s = np.maximum(0.0, holds_s - (self._gap_array_s[first:] - silence_s)[:, None])
        upper = np.maximum(1, np.searchsorted(holds_s, rest_s))
        row = np.arange(len(late))[:, None]
        share = (rest_s - holds_s[upper - 1]) / (holds_s[upper] - holds_s[upper - 1])
        low = late[row, upper - 1]
        each = low + (late[row, upper] - low) * share
        misses: list[float] = (weights @ each / (weights.sum() + END_WEIGHT)).tolist()
        return misses


def no_misses(held_s: float) -> float:
    """Return that no misses are expected, whatever the occupation time."""
    return 0.0


def _interpolate(holds_s: list[float], misses: list[float], held_s: float) -> float:
    """Return the misses for an occupation time between or above those of the table."""
    place = bisect_left(holds_s, held_s, 1)
    if place == len(holds_s):
        return misses[-1] * held_s / holds_s[-1]
    low = holds_s[place - 1]
    share = (held_s - low) / (holds_s[place] - low)
    return misses[place - 1] + (misses[place] - misses[place - 1]) * share


def _window_starts(gaps_s: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the indices of the arrivals that begin a window, by gap before, and their weights.

    `gaps_s` has the gap before each arrival that may begin a window, from the arrival at index 1.
    The weight of a window is the number of gaps that it represents.
    """
    by_gap = np.argsort(gaps_s, kind="stable")
    longest = by_gap[max(0, len(by_gap) - LONG_GAP_WINDOWS) :]
    others = np.sort(by_gap[: len(by_gap) - len(longest)])
    even = np.linspace(0, len(others) - 1, min(EVEN_WINDOWS, len(others))).astype(np.int64)
    chosen = np.concatenate([others[even], longest])
    weights = np.ones(len(chosen))
    weights[: len(even)] = len(others) / max(1, len(even))
    order = np.argsort(gaps_s[chosen], kind="stable")
    return chosen[order] + 1, weights[order]


def _holds_s(drain_s: Floats, farthest_s: float) -> list[float]:
    """Return the occupation times for which misses are computed, in ascending order.

    `farthest_s` is the longest time that an arrival allows.
    """
    live_s = drain_s[drain_s[:, 0] > 0]
    slowest_s, fastest_s = (live_s.max(), live_s.min()) if live_s.size else (0.0, 0.0)
    longest_s = max(0.0, min(HOLD_MARGIN * farthest_s, MAX_HOLD_RATIO * float(slowest_s)))
    shortest_s = min(float(fastest_s), longest_s) / HOLD_MARGIN
    holds_s: list[float] = np.geomspace(
        MIN_SPAN_S + shortest_s, 2 * MIN_SPAN_S + longest_s, HOLD_COUNT
    ).tolist()
    return holds_s


def _late(
    offset_s: Floats,
    size: npt.NDArray[np.int64],
    left_s: Floats,
    rows: npt.NDArray[np.int64],
    drain_s: Floats,
    holds_s: Floats,
) -> Floats:
    """Return by window and occupation time how many more requests are late than with a free core.

    The arguments have a row for each window; `offset_s` are the times of its arrivals from its
    first one, when the core becomes occupied. The first of `holds_s` is 0.
    """
    samples = np.minimum(np.cumsum(size, axis=1), WINDOW_ARRIVALS) - 1
    needed_s = drain_s[rows, samples]
    alone_s = offset_s + drain_s[rows, np.minimum(size, WINDOW_ARRIVALS) - 1]
    due_s = offset_s + left_s
    # Requests that arrive while the core is occupied are served together afterwards, later ones
    # after them.
    late_alone = alone_s > due_s
    counts = [((held_s + needed_s > due_s) | late_alone).sum(axis=1) for held_s in holds_s.tolist()]
    late = np.stack(counts, axis=1).astype(np.float64)
    late = np.maximum(0.0, late - late[:, :1])
    # A window ends but arrivals do not, so misses grow from its end as fast as the time.
    span_s = np.clip(offset_s[:, -1:], holds_s[:-1], holds_s[1:])
    for place in range(2, len(holds_s)):
        least = late[:, place - 1] * holds_s[place] / span_s[:, place - 1]
        late[:, place] = np.maximum(late[:, place], least)
    return late
