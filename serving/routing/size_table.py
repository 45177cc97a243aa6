"""What is known about the batch times of one variant, by measured batch size.

Times of sizes in between are linear in the size. Predictions never fall with the size: the
baselines are isotonic, because single measurements are not.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from serving.routing.isotonic import isotonic
from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import Residuals

CALIBRATION_QUANTILE: Final = 0.75
"""Quantile of a few calibration timings that is taken as the typical time. It is above the median
because single requests with pauses between them are timed."""

BASELINE_GAIN: Final = 0.2
"""Share of the logarithmic difference to an observation by which the baseline moves."""

MAX_BASELINE_STEP: Final = 0.03
"""Upper bound of one step of the baseline, in logarithm. With it the baseline follows the median of
the observations, and an outlier has no more weight than any other one."""

CALIBRATION_PULL: Final = 0.01
"""Share of the logarithmic difference by which each step moves the baseline back to its calibrated
value. Otherwise baselines and speed factor could drift against each other, and a variant that is
not in use would seem fast."""

LINK_GAIN: Final = 0.2
"""Share of the difference to an observation by which the time on the link moves."""

MAX_LINK_STEP: Final = 0.1
"""Upper bound of a step upwards, as a share of the time on the link. The first batch of a burst is
delayed too, but not by the link."""

MIN_LINK_STEP_S: Final = 5e-5
"""Steps up to this one are not bounded by `MAX_LINK_STEP`, in seconds."""

UNCALIBRATED_WEIGHT: Final = 1e-9
"""Weight in the isotonic regression of a size that was not calibrated; 1 for the others."""

MARGIN_STEP: Final = 0.05
"""Step of the margin: adaptive conformal inference (Gibbs & Candès, NeurIPS'21, section 2)."""

MAX_MARGIN: Final = 3.0
"""Upper bound of the margin. It shrinks slowly, and a burst of late batches would widen it for as
long as the load lasts."""

QUANTILE: Final = 0.95
"""Quantile of the default prediction."""

MIN_BATCH_S: Final = 1e-6
"""Lower bound of an observed time, in seconds. A coarse clock may measure 0."""

MAX_EVIDENCE: Final = 64
"""Number of observations beyond which a baseline counts no more in the isotonic regression."""


class _Position(NamedTuple):
    """The position of a batch size among the measured sizes."""

    place: int
    """Index of the smallest measured size that is at least the batch size."""
    below: float
    """Distance below that size, as a share of the step from the measured size before."""


class SizeTable:
    """The state of one variant by measured batch size. All times are in seconds."""

    def __init__(self, card: Mapping[int, LatencyQuantiles]) -> None:
        """Raises `ValueError` without a measured size."""
        if not card:
            raise ValueError("a variant needs a measured latency for at least one batch size")
        self._sizes: Sequence[int] = sorted(card)
        self._seeds = [card[size] for size in self._sizes]
        count = len(self._sizes)
        self._card_s = isotonic([seed.p50_s for seed in self._seeds], [1.0] * count)
        self._best_s = list(self._card_s)
        self._calibrated_s = list(self._card_s)
        self._is_calibrated = [False] * count
        self._link_s = [0.0] * count
        self._positions = [self._position(size) for size in range(self._sizes[-1] + 1)]
        self.last_seen_at = -math.inf
        self.forget()

    def forget(self) -> None:
        """Discard all observations; calibrations stay."""
        self._baselines_s = list(self._calibrated_s)
        self._isotonic_s = list(self._calibrated_s)
        self._evidence = [1.0] * len(self._sizes)
        self._residuals = [Residuals(seed) for seed in self._seeds]
        self.margin = 1.0
        self.has_observations = False

    def residuals(self, size: int) -> Residuals:
        """Return the distribution of batch times on the host around the typical time."""
        return self._residuals[self._place(size)]

    def baseline_s(self, size: int) -> float:
        """Return the typical time on the host at normal speed."""
        return self._interpolate(self._isotonic_s, size)

    def link_s(self, size: int) -> float:
        """Return the typical time on the way to the host and back, when the gateway is idle."""
        return self._interpolate(self._link_s, size)

    def host_and_link_s(self, size: int) -> tuple[float, float]:
        """Return `baseline_s` and `link_s` with one look-up of the size."""
        if size >= len(self._positions):
            return self.baseline_s(size), self.link_s(size)
        place, below = self._positions[size]
        on_host, on_way = self._isotonic_s, self._link_s
        baseline_s, link_s = on_host[place], on_way[place]
        if below:
            baseline_s += (on_host[place - 1] - baseline_s) * below
            link_s += (on_way[place - 1] - link_s) * below
        return baseline_s, link_s

    def best_s(self, size: int) -> float:
        """Return the shortest time from dispatch to answer that was observed or calibrated."""
        return self._interpolate(self._best_s, size)

    def card_s(self, size: int) -> float:
        """Return the median of the report card."""
        return self._interpolate(self._card_s, size)

    def learn(self, size: int, ratio: float) -> None:
        """Learn from a batch on the host that took `ratio` times what those around it suggest."""
        place = self._place(size)
        back = math.pow(self._calibrated_s[place] / self._baselines_s[place], CALIBRATION_PULL)
        step = max(-MAX_BASELINE_STEP, min(MAX_BASELINE_STEP, BASELINE_GAIN * math.log(ratio)))
        self._baselines_s[place] *= back * math.exp(step)
        self._evidence[place] = min(MAX_EVIDENCE, self._evidence[place] + 1)
        self._isotonic_s = isotonic(self._baselines_s, self._evidence)
        self._residuals[place].add(ratio)

    def learn_link(self, size: int, way_s: float) -> None:
        """Learn from the time that a batch was on the way while the gateway was idle."""
        place = self._place(size)
        link_s = self._link_s[place]
        most_s = max(MIN_LINK_STEP_S, MAX_LINK_STEP * link_s)
        self._link_s[place] = link_s + min(most_s, LINK_GAIN * (way_s - link_s))
        self._link_s = isotonic(self._link_s, self._weights())

    def adjust_margin(self, is_late: bool) -> None:
        """Widen or narrow the margin after a batch."""
        step = MARGIN_STEP * (QUANTILE if is_late else QUANTILE - 1)
        self.margin = min(MAX_MARGIN, max(1.0, self.margin * math.exp(step)))

    def relax_margin(self, share: float) -> None:
        """Keep only this share of what the margin has above 1."""
        self.margin = 1 + (self.margin - 1) * share

    def update_best(self, size: int, took_s: float) -> None:
        """Record the time of a batch from dispatch to answer."""
        place = self._place(size)
        beyond = max(1.0, size / self._sizes[place])
        self._best_s[place] = min(self._best_s[place], took_s / beyond)

    def calibrate(
        self, host_s: Mapping[int, Sequence[float]], way_s: Mapping[int, Sequence[float]]
    ) -> None:
        """Replace the report card by timings on an idle host, and those on the way, by size."""
        for size, timings in host_s.items():
            place, on_way = self._place(size), way_s.get(size) or [0.0]
            beyond = max(1.0, size / self._sizes[place])
            self._calibrated_s[place] = max(MIN_BATCH_S, _typical_s(timings)) / beyond
            self._link_s[place] = _typical_s(on_way)
            # A second host may be timed on a busy machine: a shorter time from before is kept.
            known_s = self._best_s[place] if self._is_calibrated[place] else math.inf
            best_s = max(MIN_BATCH_S, min(timings) + min(on_way))
            self._best_s[place] = min(known_s, best_s / beyond)
            self._is_calibrated[place] = True
        self._calibrated_s = isotonic(self._calibrated_s, self._weights())
        self._link_s = isotonic(self._link_s, self._weights())
        self._baselines_s = list(self._calibrated_s)
        self._isotonic_s = list(self._calibrated_s)

    def _weights(self) -> list[float]:
        """Return the weights of the sizes: what was calibrated here counts, other data hardly."""
        return [1.0 if each else UNCALIBRATED_WEIGHT for each in self._is_calibrated]

    def _interpolate(self, values: Sequence[float], size: int) -> float:
        if size >= len(self._positions):
            return values[-1] * size / self._sizes[-1]
        place, below = self._positions[size]
        value = values[place]
        return value + (values[place - 1] - value) * below if below else value

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


def _typical_s(timings: Sequence[float]) -> float:
    ordered = sorted(timings)
    return ordered[int(CALIBRATION_QUANTILE * len(ordered))]
