"""How long will a batch take? Quantiles by variant and batch size, as the gateway sees it.

    time = baseline (variant, size) x pace (of the machine) x ratio (chance, by variant and size)

The baseline comes from the report card, is measured anew when a host joins, and drifts slowly. The
pace is the same for all variants and follows within a few batches: what slows one down is mostly a
busy or throttled machine. The ratios are those of late. A margin widens predictions that turn out
too narrow.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import Residuals

QUANTILE: Final = 0.95
CALIBRATED_AT: Final = 0.75
"""Quantile of what stands for typical among a handful of timings: a lone request's, with pauses."""

SPEED_FACTOR_WINDOW: Final = 9
"""So many batches give the pace: after half of them it has followed."""

GAIN: Final = 0.2
DRIFT: Final = 0.03
"""Step, in logarithm, of a baseline towards each observation: so much of the way, and at most that,
so it follows their median, and an outlier says no more than any other."""

ANCHOR: Final = 0.01
"""How far it goes back at each towards what was calibrated: or else baselines and pace could drift
against each other, and a variant that is not in use would seem quick."""

WIDEN: Final = 0.05
"""Step of the margin: adaptive conformal inference (Gibbs & Candès, NeurIPS'21, section 2)."""

LEAST_S: Final = 1e-6
"""No batch takes less, but a coarse clock may say so."""

FRESH_S: Final = 30.0
"""What was seen longer ago is forgotten: one judged too slow in a bad minute is tried again."""


class Times:
    """What batches of one variant take, in seconds from dispatch to answer, as it looks now."""

    __slots__ = ("_factor", "_sizes", "_typical_s", "_within_s")

    def __init__(self, sizes: _Sizes, factor: float) -> None:
        self._sizes = sizes
        self._factor = factor
        # Decisions ask for the same sizes again and again.
        self._typical_s: dict[int, float] = {}
        self._within_s: dict[int, float] = {}

    def typical_s(self, size: int) -> float:
        """Return the median time of a batch of `size` samples."""
        typical_s = self._typical_s.get(size)
        if typical_s is None:
            typical_s = self._typical_s[size] = self._sizes.baseline_s(size) * self._factor
        return typical_s

    def within_s(self, size: int, quantile: float = QUANTILE) -> float:
        """Return the time that this share of batches of `size` samples stays within."""
        if quantile != QUANTILE:
            return self._quantile_s(size, quantile)
        within_s = self._within_s.get(size)
        if within_s is None:
            within_s = self._within_s[size] = self._quantile_s(size, quantile)
        return within_s

    def miss_probability(self, size: int, left_s: float) -> float:
        """Return the probability that a batch of `size` samples takes longer than `left_s`."""
        if left_s <= 0:
            return 1.0
        sizes = self._sizes
        return sizes.residuals(size).beyond(left_s / (self.typical_s(size) * sizes.margin))

    def _quantile_s(self, size: int, quantile: float) -> float:
        sizes = self._sizes
        return self.typical_s(size) * sizes.residuals(size).quantile(quantile) * sizes.margin


class LatencyModel:
    """Learns and predicts the times of batches, for each variant."""

    def __init__(
        self, cards: Mapping[str, Mapping[int, LatencyQuantiles]], now: Callable[[], float]
    ) -> None:
        """`cards` gives by variant the measured times by batch size, at least one size each."""
        self._now = now
        self._variants = {name: _Sizes(card) for name, card in cards.items()}
        self._speed_factor = 1.0
        self._times: dict[str, Times] = {}
        """Kept until something is learned."""
        self._recent: deque[tuple[float, _Sizes, int, float]] = deque(maxlen=SPEED_FACTOR_WINDOW)

    def times(self, variant: str) -> Times:
        """Return what batches of this variant take now."""
        sizes, now = self._variants[variant], self._now()
        if sizes.is_live and now - sizes.seen_at > FRESH_S:
            sizes.forget()
            self._times.clear()
        if self._recent and now - self._recent[-1][0] > FRESH_S:
            self._recent.clear()
            self._times.clear()
            self._speed_factor = 1.0
        times = self._times.get(variant)
        if times is None:
            times = self._times[variant] = Times(sizes, self._speed_factor)
        return times

    def since_last_batch_s(self, variant: str) -> float:
        """Return how long ago this variant was last seen at work; infinite if it never was."""
        return self._now() - self._variants[variant].seen_at

    def best_case_s(self, variant: str, size: int) -> float:
        """Return the least time that a batch of `size` samples has ever taken.

        After a while without any batch that is doubted: the report card counts too, so that one
        request is tried and the best time is measured anew.
        """
        sizes = self._variants[variant]
        best = sizes.interpolate(sizes.best, size)
        if self._now() - sizes.seen_at > FRESH_S:
            best = min(best, sizes.interpolate(sizes.card, size))
        return best

    def observe(self, variant: str, size: int, took_s: float) -> None:
        """Learn from a batch of `size` samples that took `took_s`."""
        sizes, now = self._variants[variant], self._now()
        is_late = took_s > self.times(variant).within_s(size)
        self._times.clear()
        sizes.widen(is_late)
        took_s = max(LEAST_S, took_s)
        sizes.seen_at, sizes.is_live = now, True
        sizes.improve(size, took_s)
        residual = took_s / sizes.baseline_s(size)
        self._recent.append((now, sizes, size, residual))
        residuals = [each[3] for each in self._recent]
        # With few of them, what was believed before counts as well.
        self._speed_factor = median(
            [*residuals, *[self._speed_factor] * (SPEED_FACTOR_WINDOW // 2 + 1 - len(residuals))]
        )
        if len(self._recent) == SPEED_FACTOR_WINDOW:
            # The one in the middle, against those around it: they have followed a sudden change by
            # now, and without itself it is not the median, as it often were where two take turns.
            _, sizes, size, residual = self._recent[SPEED_FACTOR_WINDOW // 2]
            del residuals[SPEED_FACTOR_WINDOW // 2]
            sizes.learn(size, residual / median(residuals))

    def calibrate(self, variant: str, timings: Mapping[int, Sequence[float]]) -> None:
        """Replace the report card by what batches of these sizes took on an idle host, here.

        The card was measured without a link; and its machine may have been another.
        """
        sizes = self._variants[variant]
        self._times.clear()
        sizes.seen_at = self._now()
        for size, took in timings.items():
            ordered = sorted(took)
            typical_s = ordered[int(CALIBRATED_AT * len(ordered))]
            sizes.calibrate(size, max(LEAST_S, typical_s), max(LEAST_S, ordered[0]))


class _Sizes:
    """What is known of one variant, by measured batch size; in between it is linear in size."""

    def __init__(self, card: Mapping[int, LatencyQuantiles]) -> None:
        if not card:
            raise ValueError("a variant needs a measured latency for at least one batch size")
        self._sizes: Sequence[int] = sorted(card)
        self._seeds = [card[size] for size in self._sizes]
        self.card = [seed.p50_s for seed in self._seeds]
        self.best = list(self.card)
        self.seen_at = -math.inf
        self.is_live = False
        self._calibrated = list(self.card)
        self._is_calibrated = [False] * len(self.card)
        self._between = [self._around(size) for size in range(self._sizes[-1] + 1)]
        self.forget()

    def forget(self) -> None:
        """Go back to what was known before the first batch."""
        self._baselines = list(self._calibrated)
        self._spreads = [Residuals(seed) for seed in self._seeds]
        self.margin = 1.0
        self.is_live = False

    def residuals(self, size: int) -> Residuals:
        return self._spreads[self._place(size)]

    def baseline_s(self, size: int) -> float:
        return self.interpolate(self._baselines, size)

    def interpolate(self, values: Sequence[float], size: int) -> float:
        if size >= len(self._between):
            return values[-1] * size / self._sizes[-1]
        place, below = self._between[size]
        value = values[place]
        return value + (values[place - 1] - value) * below if below else value

    def learn(self, size: int, ratio: float) -> None:
        place = self._place(size)
        back = math.pow(self._calibrated[place] / self._baselines[place], ANCHOR)
        step = max(-DRIFT, min(DRIFT, GAIN * math.log(ratio)))
        self._baselines[place] *= back * math.exp(step)
        self._spreads[place].add(ratio)

    def widen(self, is_late: bool) -> None:
        step = WIDEN * (QUANTILE if is_late else QUANTILE - 1)
        self.margin = max(1.0, self.margin * math.exp(step))

    def improve(self, size: int, took_s: float) -> None:
        place = self._place(size)
        beyond = max(1.0, size / self._sizes[place])
        self.best[place] = min(self.best[place], took_s / beyond)

    def calibrate(self, size: int, typical_s: float, best_s: float) -> None:
        place = self._place(size)
        beyond = max(1.0, size / self._sizes[place])
        self._baselines[place] = self._calibrated[place] = typical_s / beyond
        # A second host may be timed on a busy machine: what was possible still is.
        known_s = self.best[place] if self._is_calibrated[place] else math.inf
        self.best[place] = min(known_s, best_s / beyond)
        self._is_calibrated[place] = True

    def _place(self, size: int) -> int:
        """Return the place of the smallest measured size that holds `size`, or of the largest."""
        return self._between[size][0] if size < len(self._between) else len(self._sizes) - 1

    def _around(self, size: int) -> tuple[int, float]:
        """Return the place of `size`, and how far below that it lies, in steps between places."""
        place = bisect_left(self._sizes, size)
        if place == 0:
            return 0, 0.0
        upper, lower = self._sizes[place], self._sizes[place - 1]
        return place, (upper - size) / (upper - lower)
