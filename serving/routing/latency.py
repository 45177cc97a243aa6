"""The latency model: predicts quantiles of batch times by variant and batch size.

    time = baseline (variant, size) x speed factor (machine) x residual (random, variant and size)

The baseline comes from the report card. It is measured again when a host joins, and then drifts
slowly. The speed factor is common to all variants and follows a change within a few batches,
because what slows down a batch is mostly a busy or throttled machine. The residuals are those of
recent batches. A margin widens the predictions if too many batches exceed them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import Residuals

QUANTILE: Final = 0.95
"""Quantile of the default prediction."""

CALIBRATION_QUANTILE: Final = 0.75
"""Quantile of a few calibration timings that is taken as the typical time. It is above the median
because single requests with pauses between them are timed."""

SPEED_FACTOR_WINDOW: Final = 9
"""Window of the median that is the speed factor, in batches. The factor follows a change after half
of them."""

BASELINE_GAIN: Final = 0.2
"""Share of the logarithmic difference to an observation by which the baseline moves."""

MAX_BASELINE_STEP: Final = 0.03
"""Upper bound of one step of the baseline, in logarithm. With it the baseline follows the median of
the observations, and an outlier has no more weight than any other one."""

CALIBRATION_PULL: Final = 0.01
"""Share of the logarithmic difference by which each step moves the baseline back to its calibrated
value. Otherwise baselines and speed factor could drift against each other, and a variant that is
not in use would seem fast."""

MARGIN_STEP: Final = 0.05
"""Step of the margin: adaptive conformal inference (Gibbs & Candès, NeurIPS'21, section 2)."""

MIN_BATCH_S: Final = 1e-6
"""Lower bound of an observed time, in seconds. A coarse clock may measure 0."""

MAX_OBSERVATION_AGE_S: Final = 30.0
"""Age, in seconds, after which observations are discarded. A variant that was slow for a while is
tried again."""


class PredictedTimes:
    """Current predictions for one variant: seconds from the dispatch of a batch to its answer."""

    __slots__ = ("_factor", "_sizes", "_typical_s", "_within_s")

    def __init__(self, sizes: _SizeTable, factor: float) -> None:
        self._sizes = sizes
        self._factor = factor
        # Cached, because decisions need the same sizes again and again.
        self._typical_s: dict[int, float] = {}
        self._within_s: dict[int, float] = {}

    def typical_s(self, size: int) -> float:
        """Return the median time of a batch of `size` samples."""
        typical_s = self._typical_s.get(size)
        if typical_s is None:
            typical_s = self._typical_s[size] = self._sizes.baseline_s(size) * self._factor
        return typical_s

    def within_s(self, size: int, quantile: float = QUANTILE) -> float:
        """Return a quantile of the time of a batch of `size` samples."""
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
        return sizes.residuals(size).exceedance(left_s / (self.typical_s(size) * sizes.margin))

    def _quantile_s(self, size: int, quantile: float) -> float:
        sizes = self._sizes
        return self.typical_s(size) * sizes.residuals(size).quantile(quantile) * sizes.margin


class LatencyModel:
    """Learns and predicts the batch times of each variant."""

    def __init__(
        self, cards: Mapping[str, Mapping[int, LatencyQuantiles]], now: Callable[[], float]
    ) -> None:
        """`cards` has the measured latencies of each variant by batch size, at least one size."""
        self._now = now
        self._variants = {name: _SizeTable(card) for name, card in cards.items()}
        self._speed_factor = 1.0
        self._times: dict[str, PredictedTimes] = {}
        """Cached predictions. They are discarded when an observation or a calibration arrives."""
        self._recent: deque[_Observation] = deque(maxlen=SPEED_FACTOR_WINDOW)

    def times(self, variant: str) -> PredictedTimes:
        """Return the current predictions for a variant."""
        sizes, now = self._variants[variant], self._now()
        if sizes.has_observations and now - sizes.last_seen_at > MAX_OBSERVATION_AGE_S:
            sizes.forget()
            self._times.clear()
        if self._recent and now - self._recent[-1].at > MAX_OBSERVATION_AGE_S:
            self._recent.clear()
            self._times.clear()
            self._speed_factor = 1.0
        times = self._times.get(variant)
        if times is None:
            times = self._times[variant] = PredictedTimes(sizes, self._speed_factor)
        return times

    def since_last_batch_s(self, variant: str) -> float:
        """Return the time since a batch of this variant was timed; infinite if none was."""
        return self._now() - self._variants[variant].last_seen_at

    def best_case_s(self, variant: str, size: int) -> float:
        """Return the shortest time that a batch of `size` samples has taken so far.

        If the variant has not run for `MAX_OBSERVATION_AGE_S`, the report card counts as well. One
        request is then tried, and the shortest time is measured again.
        """
        sizes = self._variants[variant]
        best = sizes.interpolate(sizes.best_s, size)
        if self._now() - sizes.last_seen_at > MAX_OBSERVATION_AGE_S:
            best = min(best, sizes.interpolate(sizes.card_s, size))
        return best

    def observe(self, variant: str, size: int, took_s: float) -> None:
        """Learn from a batch of `size` samples that took `took_s`."""
        sizes, now = self._variants[variant], self._now()
        is_late = took_s > self.times(variant).within_s(size)
        self._times.clear()
        sizes.adjust_margin(is_late)
        took_s = max(MIN_BATCH_S, took_s)
        sizes.last_seen_at, sizes.has_observations = now, True
        sizes.update_best(size, took_s)
        self._recent.append(_Observation(now, sizes, size, took_s / sizes.baseline_s(size)))
        residuals = [each.residual for each in self._recent]
        # As long as there are few observations, the previous factor counts as well.
        self._speed_factor = median(
            [*residuals, *[self._speed_factor] * (SPEED_FACTOR_WINDOW // 2 + 1 - len(residuals))]
        )
        if len(self._recent) == SPEED_FACTOR_WINDOW:
            # Learn from the observation in the middle, relative to those around it. They already
            # reflect a sudden change. The observation itself is excluded: it would often be the
            # median when two speeds alternate.
            middle = self._recent[SPEED_FACTOR_WINDOW // 2]
            del residuals[SPEED_FACTOR_WINDOW // 2]
            middle.sizes.learn(middle.size, middle.residual / median(residuals))

    def calibrate(self, variant: str, timings: Mapping[int, Sequence[float]]) -> None:
        """Replace the report card by timings, in seconds by batch size, of an idle host.

        The report card was measured without a network link and maybe on another machine.
        """
        sizes = self._variants[variant]
        self._times.clear()
        sizes.last_seen_at = self._now()
        for size, took in timings.items():
            ordered = sorted(took)
            typical_s = ordered[int(CALIBRATION_QUANTILE * len(ordered))]
            sizes.calibrate(size, max(MIN_BATCH_S, typical_s), max(MIN_BATCH_S, ordered[0]))


class _Observation(NamedTuple):
    """One timed batch. `residual` is the ratio of its time to the baseline."""

    at: float
    sizes: _SizeTable
    size: int
    residual: float


class _Position(NamedTuple):
    """The position of a batch size among the measured sizes."""

    place: int
    """Index of the smallest measured size that is at least the batch size."""
    below: float
    """Distance below that size, as a share of the step from the measured size before."""


class _SizeTable:
    """The state of one variant by measured batch size. Times in between are linear in the size."""

    def __init__(self, card: Mapping[int, LatencyQuantiles]) -> None:
        if not card:
            raise ValueError("a variant needs a measured latency for at least one batch size")
        self._sizes: Sequence[int] = sorted(card)
        self._seeds = [card[size] for size in self._sizes]
        self.card_s = [seed.p50_s for seed in self._seeds]
        self.best_s = list(self.card_s)
        self.last_seen_at = -math.inf
        self.has_observations = False
        self._calibrated = list(self.card_s)
        self._is_calibrated = [False] * len(self.card_s)
        self._positions = [self._position(size) for size in range(self._sizes[-1] + 1)]
        self.forget()

    def forget(self) -> None:
        """Discard all observations."""
        self._baselines = list(self._calibrated)
        self._residuals = [Residuals(seed) for seed in self._seeds]
        self.margin = 1.0
        self.has_observations = False

    def residuals(self, size: int) -> Residuals:
        return self._residuals[self._place(size)]

    def baseline_s(self, size: int) -> float:
        return self.interpolate(self._baselines, size)

    def interpolate(self, values: Sequence[float], size: int) -> float:
        if size >= len(self._positions):
            return values[-1] * size / self._sizes[-1]
        place, below = self._positions[size]
        value = values[place]
        return value + (values[place - 1] - value) * below if below else value

    def learn(self, size: int, ratio: float) -> None:
        place = self._place(size)
        back = math.pow(self._calibrated[place] / self._baselines[place], CALIBRATION_PULL)
        step = max(-MAX_BASELINE_STEP, min(MAX_BASELINE_STEP, BASELINE_GAIN * math.log(ratio)))
        self._baselines[place] *= back * math.exp(step)
        self._residuals[place].add(ratio)

    def adjust_margin(self, is_late: bool) -> None:
        step = MARGIN_STEP * (QUANTILE if is_late else QUANTILE - 1)
        self.margin = max(1.0, self.margin * math.exp(step))

    def update_best(self, size: int, took_s: float) -> None:
        place = self._place(size)
        beyond = max(1.0, size / self._sizes[place])
        self.best_s[place] = min(self.best_s[place], took_s / beyond)

    def calibrate(self, size: int, typical_s: float, best_s: float) -> None:
        place = self._place(size)
        beyond = max(1.0, size / self._sizes[place])
        self._baselines[place] = self._calibrated[place] = typical_s / beyond
        # A second host may be timed on a busy machine, so a shorter time from before is kept.
        known_s = self.best_s[place] if self._is_calibrated[place] else math.inf
        self.best_s[place] = min(known_s, best_s / beyond)
        self._is_calibrated[place] = True

    def _place(self, size: int) -> int:
        """Return the index of the smallest measured size that is at least `size`, or the last."""
        if size < len(self._positions):
            return self._positions[size].place
        return len(self._sizes) - 1

    def _position(self, size: int) -> _Position:
        place = bisect_left(self._sizes, size)
        if place == 0:
            return _Position(0, 0.0)
        upper, lower = self._sizes[place], self._sizes[place - 1]
        return _Position(place, (upper - size) / (upper - lower))
