"""How long will a batch take? Live quantiles by variant and batch size, as the gateway sees it.

    report card ─▶ calibrated when a host joins ─▶ corrected by what was seen lately ─▶ predict_s

A batch counts towards the smallest measured size that holds it. Where a size has enough fresh
observations, they alone count. Where it has not, its baseline does, times the slowdown: how much
slower than their baselines batches have been lately, of all variants, since what slows one down
is mostly a busy machine.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

QUANTILE: Final = 0.95
TYPICAL: Final = 0.75
"""Quantile of what stands for a tail already, or comes in handfuls: one outlier says nothing."""

WINDOW: Final = 64
ENOUGH: Final = 8
FRESH_S: Final = 30.0
"""Older observations are forgotten: a variant judged too slow in a bad minute gets tried again."""


class LatencyModel:
    """Predicts the time of a batch, in seconds from dispatch to answer, for each variant."""

    def __init__(self, cards: Mapping[str, Mapping[int, float]], now: Callable[[], float]) -> None:
        """`cards` gives by variant the measured seconds by batch size, at least one size each."""
        self._now = now
        self._slowdowns = _Window()
        self._variants = {name: _Sizes(card) for name, card in cards.items()}

    def predict_s(self, variant: str, size: int) -> float:
        """Return the time that 95 % of batches of `size` samples stay within."""
        sizes = self._variants[variant]
        place, beyond = sizes.place(size)
        window = sizes.windows[place]
        fresh_from = self._now() - FRESH_S
        window.forget(fresh_from)
        if len(window) >= ENOUGH:
            return window.quantile(QUANTILE) * beyond
        self._slowdowns.forget(fresh_from)
        slowdown = max(1.0, self._slowdowns.quantile(TYPICAL, padding=1.0))
        return sizes.baselines[place] * slowdown * beyond

    def idle_s(self, variant: str, size: int) -> float:
        """Return the least time that a batch of `size` samples has ever taken.

        After a while without any batch that is doubted: the report card counts too, so that one
        request is tried and the best time is measured anew.
        """
        sizes = self._variants[variant]
        place, beyond = sizes.place(size)
        best = sizes.best[place]
        if self._now() - sizes.seen_at > FRESH_S:
            best = min(best, sizes.card[place])
        return best * beyond

    def observe(self, variant: str, size: int, took_s: float) -> None:
        """Learn from a batch of `size` samples that took `took_s`."""
        sizes = self._variants[variant]
        place, beyond = sizes.place(size)
        now = self._now()
        took_s /= beyond
        sizes.best[place] = min(sizes.best[place], took_s)
        sizes.seen_at = now
        sizes.windows[place].add(now, took_s)
        self._slowdowns.add(now, took_s / sizes.baselines[place])

    def calibrate(self, variant: str, timings: Mapping[int, Sequence[float]]) -> None:
        """Replace the report card by what batches of these sizes took on an idle host, here.

        The card was measured without a link; and its machine may have been another.
        """
        sizes = self._variants[variant]
        sizes.seen_at = self._now()
        for size, took in timings.items():
            place, beyond = sizes.place(size)
            ordered = sorted(took)
            sizes.baselines[place] = ordered[int(TYPICAL * len(ordered))] / beyond
            sizes.best[place] = ordered[0] / beyond


class _Sizes:
    """What is known of one variant, by measured batch size."""

    def __init__(self, card: Mapping[int, float]) -> None:
        if not card:
            raise ValueError("a variant needs a measured latency for at least one batch size")
        self._sizes: Sequence[int] = sorted(card)
        self.card = [card[size] for size in self._sizes]
        self.baselines = list(self.card)
        self.best = list(self.card)
        self.seen_at = -math.inf
        self.windows = [_Window() for _ in self._sizes]

    def place(self, size: int) -> tuple[int, float]:
        """Return the place of the measured size, and the factor for a size beyond the last."""
        place = bisect_left(self._sizes, size)
        if place < len(self._sizes):
            return place, 1.0
        return place - 1, size / self._sizes[-1]


class _Window:
    """The last `WINDOW` values, kept in order of time and in order of size."""

    __slots__ = ("_by_size", "_by_time")

    def __init__(self) -> None:
        self._by_time: deque[tuple[float, float]] = deque()
        self._by_size: list[float] = []

    def __len__(self) -> int:
        return len(self._by_size)

    def add(self, at: float, value: float) -> None:
        if len(self._by_time) == WINDOW:
            self._drop_oldest()
        self._by_time.append((at, value))
        insort(self._by_size, value)

    def forget(self, before: float) -> None:
        while self._by_time and self._by_time[0][0] < before:
            self._drop_oldest()

    def quantile(self, q: float, padding: float | None = None) -> float:
        """Return a quantile; `padding` stands in for the values that `ENOUGH` would want more."""
        values = self._by_size
        if padding is not None and len(values) < ENOUGH:
            values = sorted([*values, *[padding] * (ENOUGH - len(values))])
        return values[min(int(q * len(values)), len(values) - 1)]

    def _drop_oldest(self) -> None:
        _, value = self._by_time.popleft()
        del self._by_size[bisect_left(self._by_size, value)]
