"""How fast is each variant, batch size by batch size, against dense measured in turns with it.

    loaders ─▶ runners, LOADS times over ─▶ turns ─▶ seconds of each call ─▶ BatchLatency

Two things make one timing lie, and both are measured rather than hoped away. The machine drifts,
so variants take short turns. And one loaded copy differs from the next by a few percent, by where
its memory came to lie, so each is loaded anew several times, and a load is what is resampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import BatchLatency, Interval, Runtime
from variants.measurement.progress import ProgressCallback, ignore_progress, part
from variants.model.dataset import Samples, count, rows
from variants.runtime.runner import Runner

Clock: TypeAlias = Callable[[], float]
"""Seconds since some fixed moment, never going back."""

Calls: TypeAlias = Mapping[str, Callable[[], object]]
"""For each variant, one run of it on a batch."""

Seconds: TypeAlias = NDArray[np.float64]
"""How long each timed call took, `[LOADS, calls]`."""

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_POINT: Final = 1.3
"""Four variants, and dense in torch, at seven batch sizes take about 45 seconds."""

LOADS: Final = 10
MAX_ROUNDS: Final = 40
"""Per load; 2,000 timed calls in all, of which 20 lie above the p99."""
CALLS_PER_TURN: Final = 5
WARM_UP_CALLS: Final = 3
RESAMPLES: Final = 1000

_TAIL: Final = 0.0086
"""Normal probability below -sqrt(10/9) * 2.262: 2.5 % in each tail, for a sample of ten loads."""


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
) -> dict[str, tuple[BatchLatency, ...]]:
    """Measure every variant at every batch size.

    `dense` says by runtime which of the loaders load the dense model. A point is one variant at
    one batch size; it takes about `seconds_per_point`, but at least one turn and at most
    `MAX_ROUNDS` turns in each load. The samples are repeated where a batch is larger than they are.
    """
    rng = np.random.default_rng(seed)
    batches = {size: _batch(samples, size) for size in batch_sizes}
    rounds: dict[int, int] = {}
    timings: dict[int, list[dict[str, list[float]]]] = {size: [] for size in batch_sizes}
    for load in range(LOADS):
        runners = {name: load_runner() for name, load_runner in loaders.items()}
        for index, (size, batch) in enumerate(batches.items()):
            calls = {name: _call(runner, batch) for name, runner in runners.items()}
            warm_up(calls)
            if size not in rounds:
                rounds[size] = rounds_within(seconds_per_point * len(calls) / LOADS, calls, clock)
            timings[size].append(time_in_turns(calls, rounds[size], clock, rng))
            part(part(on_progress, load, LOADS), index, len(batches))(1.0)
        del runners  # before the next load: two copies of every variant may be too many

    latencies: dict[str, list[BatchLatency]] = {name: [] for name in loaders}
    for size, of_loads in timings.items():
        seconds = {name: np.array([load[name] for load in of_loads]) for name in loaders}
        references = {runtime: seconds[name] for runtime, name in dense.items()}
        for name in loaders:
            latencies[name].append(summarize(size, seconds[name], references, rng))
    return {name: tuple(measured) for name, measured in latencies.items()}


def warm_up(calls: Calls) -> None:
    """Run each a few times, untimed: the first call of a shape allocates what later ones reuse."""
    for call in calls.values():
        for _ in range(WARM_UP_CALLS):
            call()


def rounds_within(seconds: float, calls: Calls, clock: Clock) -> int:
    """Return how many rounds of turns fit, from 1 to `MAX_ROUNDS`, by the median of three tried."""
    tried = []
    for _ in range(3):
        before = clock()
        for call in calls.values():
            _turn(call, clock)
        tried.append(clock() - before)
    return min(MAX_ROUNDS, max(1, int(seconds / max(median(tried), 1e-9))))


def time_in_turns(
    calls: Calls, rounds: int, clock: Clock, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Time `calls` in rounds; return the seconds of every timed call, in order.

    In a round each of them has one turn, in an order drawn anew. A turn is one untimed call, which
    brings back to the processor's caches what the others pushed out, then `CALLS_PER_TURN` timed
    ones: what is measured is a warm variant, as in a replica of its own under load.
    """
    names = list(calls)
    timings: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for which in rng.permutation(len(names)):
            timings[names[which]] += _turn(calls[names[which]], clock)
    return timings


def summarize(
    batch_size: int,
    seconds: Seconds,
    dense: Mapping[Runtime, Seconds],
    rng: np.random.Generator,
) -> BatchLatency:
    """Return the quantiles of all calls, interpolated between two, and the speedup over dense.

    Of several runtimes of dense the one of the least median is taken.
    """
    p50, p95, p99 = (float(quantile) for quantile in np.quantile(seconds, [0.5, 0.95, 0.99]))
    medians = {runtime: float(np.median(each)) for runtime, each in dense.items()}
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
    """Return dense's median over the variant's, with a bootstrap's 95 % interval.

    Drawn with replacement are whole loads, the same ones for both: the calls of one load share
    where its memory lies and what the machine did meanwhile, so they are one observation. With ten
    of these the percentile interval would be too short; T. Hesterberg, What teachers should know
    about the bootstrap, The American Statistician 69 (2015), widens its tails as
    Student's t does a normal interval: the expanded percentile interval.
    """
    draws = rng.integers(len(dense), size=(RESAMPLES, len(dense)))
    ratios = np.median(dense[draws], axis=(1, 2)) / np.median(variant[draws], axis=(1, 2))
    low, high = (float(end) for end in np.quantile(ratios, [_TAIL, 1 - _TAIL]))
    return Interval(value=float(np.median(dense) / np.median(variant)), low=low, high=high)


def _batch(samples: Samples, size: int) -> Samples:
    return rows(samples, np.arange(size) % count(samples))


def _call(runner: Runner, batch: Samples) -> Callable[[], object]:
    return lambda: runner(batch)


def _turn(call: Callable[[], object], clock: Clock) -> list[float]:
    call()
    seconds = []
    for _ in range(CALLS_PER_TURN):
        before = clock()
        call()
        seconds.append(clock() - before)
    return seconds
