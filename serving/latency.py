"""How long will a batch take? Live quantiles by variant and batch size, seeded by report cards.

A batch counts towards the smallest measured size that holds it. While a size has too few fresh
observations, its report card is used, scaled by how reality has compared to the card so far on
that variant's other sizes. The times are seen from the gateway: dispatch to answer, link included.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

QUANTILE: Final = 0.95
WINDOW: Final = 64
ENOUGH: Final = 8
FRESH_S: Final = 30.0
"""Older observations are forgotten: a variant judged too slow in a bad minute gets tried again."""


class LatencyModel:
    """Predicts the time of a batch, in seconds, for each variant."""

    def __init__(self, cards: Mapping[str, Mapping[int, float]], now: Callable[[], float]) -> None:
        """`cards` gives by variant the measured seconds by batch size, at least one size each."""
        self._variants = {name: _VariantLatency(sizes, now) for name, sizes in cards.items()}

    def predict_s(self, variant: str, size: int) -> float:
        """Return the time that 95 % of batches of `size` samples stay within."""
        return self._variants[variant].predict_s(size)

    def idle_s(self, variant: str, size: int) -> float:
        """Return about the least time that a batch of `size` samples has taken lately."""
        return self._variants[variant].idle_s(size)

    def observe(self, variant: str, size: int, took_s: float) -> None:
        """Learn from a batch of `size` samples that took `took_s`."""
        self._variants[variant].observe(size, took_s)


class _VariantLatency:
    def __init__(self, card: Mapping[int, float], now: Callable[[], float]) -> None:
        if not card:
            raise ValueError("a variant needs a measured latency for at least one batch size")
        self._now = now
        self._sizes: Sequence[int] = sorted(card)
        self._cards = [card[size] for size in self._sizes]
        self._windows = [_Window() for _ in self._sizes]
        self._ratios = _Window()

    def predict_s(self, size: int) -> float:
        place, beyond = self._place(size)
        window = self._windows[place]
        window.forget(self._now() - FRESH_S)
        if window.count >= ENOUGH:
            return window.quantile(QUANTILE) * beyond
        return self._scaled(place, QUANTILE) * beyond

    def idle_s(self, size: int) -> float:
        place, beyond = self._place(size)
        window = self._windows[place]
        window.forget(self._now() - FRESH_S)
        if window.count >= ENOUGH:
            return window.quantile(0.05) * beyond
        return self._scaled(place, 0.05) * beyond

    def observe(self, size: int, took_s: float) -> None:
        place, beyond = self._place(size)
        now = self._now()
        self._windows[place].add(now, took_s / beyond)
        self._ratios.add(now, took_s / beyond / self._cards[place])

    def _place(self, size: int) -> tuple[int, float]:
        """Return the place of the measured size, and the factor for a size beyond the last."""
        place = bisect_left(self._sizes, size)
        if place < len(self._sizes):
            return place, 1.0
        return place - 1, size / self._sizes[-1]

    def _scaled(self, place: int, quantile: float) -> float:
        self._ratios.forget(self._now() - FRESH_S)
        ratio = self._ratios.quantile(quantile) if self._ratios.count else 1.0
        return self._cards[place] * ratio


class _Window:
    """The last `WINDOW` values, kept in order of time and in order of size."""

    __slots__ = ("_by_size", "_by_time")

    def __init__(self) -> None:
        self._by_time: deque[tuple[float, float]] = deque()
        self._by_size: list[float] = []

    @property
    def count(self) -> int:
        return len(self._by_size)

    def add(self, at: float, value: float) -> None:
        if len(self._by_time) == WINDOW:
            self._drop_oldest()
        self._by_time.append((at, value))
        insort(self._by_size, value)

    def forget(self, before: float) -> None:
        while self._by_time and self._by_time[0][0] < before:
            self._drop_oldest()

    def quantile(self, q: float) -> float:
        return self._by_size[min(int(q * len(self._by_size)), len(self._by_size) - 1)]

    def _drop_oldest(self) -> None:
        _, value = self._by_time.popleft()
        del self._by_size[bisect_left(self._by_size, value)]
