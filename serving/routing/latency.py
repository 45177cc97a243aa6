"""The latency model: predicts quantiles of batch times by variant and batch size.

    time = baseline (variant, size) x speed factor (machine) x residual (random)    on the host
         + link (variant, size) + lag (gateway, random)                             on the way

The baseline comes from the report card. It and the link are measured again when a host joins, and
then drift slowly. Speed factor and lag follow a change within a few batches. They are learned
apart, because a busy gateway delays every batch by the same time, however small the batch is. The
residuals are those of recent batches. A margin widens predictions that too many batches exceed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from serving.routing.lag import Lag
from serving.routing.profile import LatencyQuantiles
from serving.routing.size_table import MIN_BATCH_S, QUANTILE, SizeTable
from serving.routing.speed import WINDOW, SpeedFactor

MAX_OBSERVATION_AGE_S: Final = 30.0
"""Age, in seconds, after which observations are discarded. A variant that was slow for a while is
tried again."""

IDLE_PAUSE_S: Final = 0.5
"""Time without a batch, in seconds, after which the gateway was idle when a batch was sent."""

MARGIN_MEMORY_S: Final = 1.0
"""Time constant, in seconds, with which a margin is forgotten while the gateway is idle."""


EXPIRY_TOLERANCE_S: Final = 1e-6
"""Time, in seconds, by which cached predictions are checked before one of their inputs becomes too
old. It is above all rounding errors."""


class PredictedTimes:
    """Current predictions for one variant: seconds from the dispatch of a batch to its answer."""

    __slots__ = ("_factor", "_host_s", "_lag", "_sizes", "_typical_s", "_within_s", "expires_at")

    def __init__(self, sizes: SizeTable, factor: float, lag: Lag, expires_at: float) -> None:
        self.expires_at = expires_at
        """Time from which `LatencyModel.times` has to check that the predictions still hold."""
        self._sizes = sizes
        self._factor = factor
        self._lag = lag
        # Cached, because decisions need the same sizes again and again.
        self._typical_s: dict[int, float] = {}
        self._host_s: dict[int, float] = {}
        """The part of `_typical_s` on the host."""
        self._within_s: dict[int, float] = {}

    @property
    def lag_s(self) -> float:
        """The part of every time that the gateway causes by being busy."""
        return self._lag.typical_s()

    def typical_s(self, size: int) -> float:
        """Return the median time of a batch of `size` samples."""
        typical_s = self._typical_s.get(size)
        if typical_s is None:
            baseline_s, link_s = self._sizes.host_and_link_s(size)
            host_s = self._host_s[size] = baseline_s * self._factor
            typical_s = self._typical_s[size] = host_s + (link_s + self._lag.typical_s())
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
        left_s /= self._sizes.margin
        baseline_s, link_s = self._sizes.host_and_link_s(size)
        host_s, way_s = baseline_s * self._factor, link_s + self._lag.typical_s()
        if left_s <= way_s:
            return 1.0
        late_on_host = self._sizes.residuals(size).exceedance((left_s - way_s) / host_s)
        late_on_way = 0.0
        if left_s > host_s + way_s:
            late_on_way = self._lag.exceedance(left_s - host_s - link_s)
        return 1 - (1 - late_on_host) * (1 - late_on_way)

    def _quantile_s(self, size: int, quantile: float) -> float:
        sizes, lag = self._sizes, self._lag
        typical_s = self.typical_s(size)
        host_more_s = self._host_s[size] * (sizes.residuals(size).quantile(quantile) - 1)
        way_more_s = lag.quantile_s(quantile) - lag.typical_s()
        # Host and way are independent: their deviations add up like standard deviations.
        more_s = math.copysign(math.hypot(host_more_s, way_more_s), host_more_s + way_more_s)
        return max(MIN_BATCH_S, typical_s + more_s) * sizes.margin


class LatencyModel:
    """Learns and predicts the batch times of each variant."""

    def __init__(
        self, cards: Mapping[str, Mapping[int, LatencyQuantiles]], now: Callable[[], float]
    ) -> None:
        """`cards` has the measured latencies of each variant by batch size, at least one size."""
        self._now = now
        self._variants = {name: SizeTable(card) for name, card in cards.items()}
        self._speed = SpeedFactor()
        self._lag = Lag()
        self._times: dict[str, PredictedTimes] = {}
        """Cached predictions. They are discarded when anything that they depend on changes."""
        self._recent: deque[_Observation] = deque(maxlen=WINDOW)
        self._holds_until = -math.inf
        """Time up to which no part of what all variants share becomes too old, or a bit less."""

    def add(self, variant: str, card: Mapping[int, LatencyQuantiles]) -> None:
        """Add a variant, with its measured latencies by batch size; nothing else is known of it.

        Raises `ValueError` without a measured size.
        """
        self._variants[variant] = SizeTable(card)
        self._times.pop(variant, None)

    def remove(self, variant: str) -> None:
        """Forget a variant and its times. The speed factor and the lag stay."""
        del self._variants[variant]
        self._times.pop(variant, None)

    def times(self, variant: str) -> PredictedTimes:
        """Return the current predictions for a variant."""
        times = self._times.get(variant)
        if times is None or self._now() >= times.expires_at:
            times = self._current_times(variant)
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
        best = sizes.best_s(size)
        if self._now() - sizes.last_seen_at > MAX_OBSERVATION_AGE_S:
            best = min(best, sizes.card_s(size))
        return best

    def observe(self, variant: str, size: int, took_s: float, host_s: float | None = None) -> None:
        """Learn from a batch of `size` samples that took `took_s` from dispatch to answer.

        `host_s` is the part of it that the host computed; None if all of it is attributed to the
        host.
        """
        sizes, now = self._variants[variant], self._now()
        is_late = took_s > self.times(variant).within_s(size)
        self._times.clear()
        self._holds_until = -math.inf
        took_s = max(MIN_BATCH_S, took_s)
        host_s = took_s if host_s is None else min(took_s, max(MIN_BATCH_S, host_s))
        pause_s = now - took_s - self._recent[-1].at if self._recent else math.inf
        if pause_s > IDLE_PAUSE_S:
            sizes.learn_link(size, took_s - host_s)
            sizes.relax_margin(math.exp(-pause_s / MARGIN_MEMORY_S))
        sizes.adjust_margin(is_late)
        sizes.last_seen_at, sizes.has_observations = now, True
        sizes.update_best(size, took_s)
        self._lag.add(now, took_s - host_s - sizes.link_s(size))
        ratio = host_s / sizes.baseline_s(size)
        self._speed.add(now, ratio)
        self._recent.append(_Observation(now, sizes, size, ratio))
        self._learn()

    def calibrate(
        self,
        variant: str,
        host_s: Mapping[int, Sequence[float]],
        way_s: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        """Replace the report card by timings of an idle host, in seconds by batch size.

        The report card was measured without a network link and maybe on another machine. `way_s`
        has the rest of the same batches' times: the way to the host and back.
        """
        sizes = self._variants[variant]
        self._times.clear()
        sizes.last_seen_at = self._now()
        sizes.calibrate(host_s, way_s or {})

    def _current_times(self, variant: str) -> PredictedTimes:
        """Discard what is too old; return the cached predictions for a variant, or new ones."""
        sizes, now = self._variants[variant], self._now()
        if sizes.has_observations and now - sizes.last_seen_at > MAX_OBSERVATION_AGE_S:
            sizes.forget()
            self._times.clear()
        if now >= self._holds_until:
            self._forget_old(now)
        times = self._times.get(variant)
        if times is None:
            expires_at = self._holds_until
            if sizes.has_observations:
                own = sizes.last_seen_at + MAX_OBSERVATION_AGE_S - EXPIRY_TOLERANCE_S
                expires_at = min(expires_at, own)
            times = PredictedTimes(sizes, self._speed.value, self._lag, expires_at)
            self._times[variant] = times
        return times

    def _forget_old(self, now: float) -> None:
        """Discard what is too old of what all variants share."""
        if self._recent and now - self._recent[-1].at > MAX_OBSERVATION_AGE_S:
            self._recent.clear()
            self._speed.forget()
            self._times.clear()
        if self._lag.expire(now) | self._speed.expire(now):
            self._times.clear()
        expires_at = min(self._lag.expires_at, self._speed.expires_at)
        if self._recent:
            expires_at = min(expires_at, self._recent[-1].at + MAX_OBSERVATION_AGE_S)
        self._holds_until = expires_at - EXPIRY_TOLERANCE_S

    def _learn(self) -> None:
        """Learn from the observation in the middle, relative to those around it.

        They already reflect a sudden change. The observation itself is excluded: it would often be
        the median when two speeds alternate.
        """
        if len(self._recent) == WINDOW:
            ratios = [each.ratio for each in self._recent]
            del ratios[WINDOW // 2]
            middle = self._recent[WINDOW // 2]
            middle.sizes.learn(middle.size, middle.ratio / median(ratios))


class _Observation(NamedTuple):
    """One timed batch. `ratio` is that of its time on the host to the baseline."""

    at: float
    sizes: SizeTable
    size: int
    ratio: float
