"""Latency of each variant by batch size, compared with dense in alternating turns.

    loaders ─▶ runners, loaded LOADS times ─▶ turns ─▶ seconds of each call ─▶ BatchLatency

Two effects bias single timings. The speed of the machine drifts, so variants are timed in short
alternating turns. Loaded copies of one variant differ by a few percent, depending on their memory
addresses, so each variant is loaded several times and the bootstrap resamples loads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import BatchLatency, Interval, Runtime
from variants.measurement.progress import ProgressCallback, ignore_progress, subtask
from variants.model.dataset import Samples, count, rows
from variants.runtime.runner import Runner

Clock: TypeAlias = Callable[[], float]
"""Monotonic clock, in seconds."""

Calls: TypeAlias = Mapping[str, Callable[[], object]]
"""A function per variant that runs it once on a batch."""

Seconds: TypeAlias = NDArray[np.float64]
"""Durations of the timed calls in seconds, `[LOADS, calls]`."""

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_POINT: Final = 1.3
"""Measurement time per variant and batch size. Four variants, and dense in torch, at seven batch
sizes take about 45 seconds."""

LOADS: Final = 10
"""Number of times each variant is loaded."""

MAX_ROUNDS: Final = 40
"""Largest number of rounds per load: 2,000 timed calls in total, of which 20 exceed the p99."""

CALLS_PER_TURN: Final = 5
"""Timed calls of a variant in each round."""

WARM_UP_CALLS: Final = 3
"""Untimed calls of a variant at each batch size."""

RESAMPLES: Final = 1000
"""Bootstrap samples of an interval."""

_TAIL: Final = 0.0086
"""Tail probability of the expanded 95 % percentile interval for ten loads: the normal probability
below -sqrt(10/9) * 2.262."""


def profile(
    loaders: Mapping[str, Callable[[], Runner]],
    samples: Samples,
    *,
    dense: Mapping[Runtime, str],
    seconds_per_point: float = SECONDS_PER_POINT,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    clock: Clock = time.perf_counter,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
    least_calls: int = CALLS_PER_TURN,
) -> dict[str, tuple[BatchLatency, ...]]:
    """Measure the latency of every variant at every batch size.

    `dense` maps runtimes to the names of the loaders of dense. A point is one variant at one batch
    size. It takes about `seconds_per_point`, but at least one turn and at most `MAX_ROUNDS` turns
    per load. Samples are repeated if a batch is larger than their number.

    Where the time does not suffice for a whole turn per load, it may have fewer calls, down to
    `least_calls`. The median hardly suffers, since the calls of one load are much alike; the other
    quantiles do.
    """
    rng = np.random.default_rng(seed)
    batches = {size: _batch(samples, size) for size in batch_sizes}
    plans: dict[int, TurnPlan] = {}
    timings: dict[int, list[dict[str, list[float]]]] = {size: [] for size in batch_sizes}
    for load in range(LOADS):
        runners = {name: load_runner() for name, load_runner in loaders.items()}
        for index, (size, batch) in enumerate(batches.items()):
            calls = {name: _call(runner, batch) for name, runner in runners.items()}
            if size not in plans or not plans[size].is_short:
                warm_up(calls)
            if size not in plans:
                budget_s = seconds_per_point * len(calls) / LOADS
                plans[size] = plan_turns(budget_s, calls, clock, least_calls)
            timings[size].append(time_in_turns(calls, plans[size], clock, rng))
            subtask(subtask(on_progress, load, LOADS), index, len(batches))(1.0)
        del runners  # free the memory before the next load

    latencies: dict[str, list[BatchLatency]] = {name: [] for name in loaders}
    for size, loads in timings.items():
        seconds = {name: np.array([load[name] for load in loads]) for name in loaders}
        references = {runtime: seconds[name] for runtime, name in dense.items()}
        for name in loaders:
            latencies[name].append(summarize(size, seconds[name], references, rng))
    return {name: tuple(measured) for name, measured in latencies.items()}


def warm_up(calls: Calls) -> None:
    """Run each variant a few times untimed, since the first calls of a shape allocate memory."""
    for call in calls.values():
        for _ in range(WARM_UP_CALLS):
            call()


class TurnPlan(NamedTuple):
    """How often a variant is timed at one batch size after each load."""

    rounds: int
    calls: int = CALLS_PER_TURN
    """Timed calls in a turn."""

    @property
    def is_short(self) -> bool:
        """Whether even a turn takes longer than planned, so that its first call must suffice as
        warm-up.
        """
        return self.calls < CALLS_PER_TURN


def plan_turns(seconds: float, calls: Calls, clock: Clock, least_calls: int) -> TurnPlan:
    """Return how many rounds and calls fit, with at least `least_calls` timed calls in a turn."""
    if least_calls < CALLS_PER_TURN:
        before = clock()
        for call in calls.values():
            call()
        fitting = int(seconds / max(clock() - before, 1e-9)) - 1  # the first call is not timed
        if fitting < CALLS_PER_TURN:
            return TurnPlan(rounds=1, calls=max(least_calls, fitting))
    return TurnPlan(rounds_within(seconds, calls, clock))


def rounds_within(seconds: float, calls: Calls, clock: Clock) -> int:
    """Return how many rounds fit, 1 to `MAX_ROUNDS`, by the median of three trial rounds."""
    durations = []
    for _ in range(3):
        before = clock()
        for call in calls.values():
            _turn(call, clock, CALLS_PER_TURN)
        durations.append(clock() - before)
    return min(MAX_ROUNDS, max(1, int(seconds / max(median(durations), 1e-9))))


def time_in_turns(
    calls: Calls, plan: TurnPlan, clock: Clock, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Time `calls` in rounds; return the durations of all timed calls in order, in seconds.

    In each round every variant has one turn, in random order. A turn is one untimed call, which
    refills the processor caches, and then the timed calls. This measures a warm variant, as
    in a dedicated replica under load.
    """
    names = list(calls)
    timings: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(plan.rounds):
        for index in rng.permutation(len(names)):
            timings[names[index]] += _turn(calls[names[index]], clock, plan.calls)
    return timings


def summarize(
    batch_size: int,
    seconds: Seconds,
    dense: Mapping[Runtime, Seconds],
    rng: np.random.Generator,
) -> BatchLatency:
    """Return the interpolated latency quantiles of all calls, and the speedup over dense.

    The speedup refers to the runtime of dense with the smallest median.
    """
    p50, p95, p99 = (float(quantile) for quantile in np.quantile(seconds, [0.5, 0.95, 0.99]))
    medians = {runtime: float(np.median(times)) for runtime, times in dense.items()}
    fastest = min(medians, key=lambda runtime: medians[runtime])
    return BatchLatency(
        batch_size=batch_size,
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        speedup=speedup(dense[fastest], seconds, rng),
        dense_p50_s=medians,
    )


def speedup(dense: Seconds, variant: Seconds, rng: np.random.Generator) -> Interval:
    """Return the median of dense divided by that of the variant, with its 95 % bootstrap interval.

    The bootstrap resamples whole loads, the same ones for both: the calls of one load share memory
    addresses and machine speed, so they are one observation. For ten observations the percentile
    interval is too short. The expanded percentile interval widens it as Student's t widens a normal
    interval (T. Hesterberg, What teachers should know about the bootstrap, The American
    Statistician 69 (2015)).
    """
    draws = rng.integers(len(dense), size=(RESAMPLES, len(dense)))
    ratios = np.median(dense[draws], axis=(1, 2)) / np.median(variant[draws], axis=(1, 2))
    low, high = (float(end) for end in np.quantile(ratios, [_TAIL, 1 - _TAIL]))
    return Interval(value=float(np.median(dense) / np.median(variant)), low=low, high=high)


def _batch(samples: Samples, size: int) -> Samples:
    return rows(samples, np.arange(size) % count(samples))


def _call(runner: Runner, batch: Samples) -> Callable[[], object]:
    return lambda: runner(batch)


def _turn(call: Callable[[], object], clock: Clock, number: int) -> list[float]:
    call()
    seconds = []
    for _ in range(number):
        before = clock()
        call()
        seconds.append(clock() - before)
    return seconds
