"""Tries every recipe on few samples, and estimates how long a build takes.

    recipe, few samples ─▶ techniques, shortened ─▶ graph or packed layers, compared ─▶ seconds
                                                 ─▶ scaled to all samples and steps ─▶ estimate

A recipe that cannot work for the network fails here as it would in the build: which layers there
are, which units can be removed, what can be exported and compared does not depend on the samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, Task

from variants.build.passes import SamplePass
from variants.build.runtime_choice import SECONDS_PER_BATCH_SIZE, require_equal_kernels
from variants.compression.export import export_state
from variants.compression.techniques.lottery import LotteryTicket
from variants.compression.techniques.technique import Technique
from variants.measurement.footprint import PROCESSES
from variants.measurement.profiling import (
    BATCH_SIZES,
    CALLS_PER_TURN,
    LOADS,
    SECONDS_PER_POINT,
    WARM_UP_CALLS,
)
from variants.model.dataset import Datasets, TrainingData
from variants.model.state import CompressionState
from variants.model.training import Schedule, count_steps
from variants.runtime.sparse.dispatch import MEASURE_S

SECONDS_PER_RECIPE: Final = 2.0
"""Time that the samples of a dry run should take in forward passes or in training steps."""

_MIN_SAMPLES: Final = 16
_MAX_SAMPLES: Final = 512
_MAX_STEPS: Final = 6
"""Training steps of a dry run, from which the time of all steps is estimated."""
_TRAINING_COST: Final = 3
"""Forward passes that take as long as a training step on the same samples."""
_TRIAL_ROUNDS: Final = 3
"""Rounds of `rounds_within`, which come before the timed ones."""
_START_S: Final = 6.0
"""Seconds until a build has imported, loaded and checked the project."""
_PROCESS_S: Final = {"onnx": 1.5, "torch": 5.0}
"""Seconds of a process that measures load time and memory: most of them are imports."""


@dataclass(frozen=True)
class DryRun:
    """The result of trying a recipe on few samples."""

    seconds: float
    """What the dry run took."""
    whole_s: float
    """Estimated seconds of the same steps in a build."""
    runtime: str
    """The runtime that would serve the variant."""
    samples: int
    """Largest number of samples in a split of the dry run."""


def dry_run(
    dense: CompressionState, techniques: Sequence[Technique], datasets: Datasets, speed: SamplePass
) -> DryRun:
    """Apply the techniques to dense on few samples, and make the variant's model.

    Raises `ValueError` with the technique if it does not support the network, or if the exported
    model or the sparse kernels give other answers than the network.
    """
    progress = Progress(console=Console(quiet=True), disable=True)
    started = time.perf_counter()
    state, whole_s, most = dense, 0.0, 0
    for technique in techniques:
        few, short = _shortened(technique, datasets.training_data, speed)
        before, shown = time.perf_counter(), len(progress.tasks)
        try:
            state = short.apply(state, few, progress)
        except ValueError as error:
            raise ValueError(f"{technique.kind}: {error}") from error
        except Exception as error:  # libraries raise errors of any type for unusual networks
            raise ValueError(f"{technique.kind}: {type(error).__name__}: {error}") from error
        took_s = time.perf_counter() - before
        bars = progress.tasks[shown:]
        whole_s += estimate_s(technique, short, took_s, datasets.training_data, few, speed, bars)
        most = max(most, len(few.train), len(few.validation))
    before = time.perf_counter()
    runtime = _make_model(state, datasets)
    whole_s += time.perf_counter() - before
    if runtime == "torch":
        whole_s += MEASURE_S + SECONDS_PER_BATCH_SIZE * len(BATCH_SIZES)
    return DryRun(time.perf_counter() - started, whole_s, runtime, most)


def measuring_s(runs: Mapping[str, DryRun], datasets: Datasets, speed: SamplePass) -> float:
    """Return the estimated seconds of starting a build and measuring these variants."""
    points = len(runs) + 1  # dense is also timed in torch
    latency_s = sum(
        max(
            SECONDS_PER_POINT * points,
            points * LOADS * (CALLS_PER_TURN + 1) * size * speed.seconds_per_sample,
        )
        + points
        * (LOADS * WARM_UP_CALLS + _TRIAL_ROUNDS * (CALLS_PER_TURN + 1))
        * size
        * speed.seconds_per_sample
        for size in BATCH_SIZES
    )
    processes_s = sum(PROCESSES * _PROCESS_S[run.runtime] for run in runs.values())
    kernels_s = sum(MEASURE_S for run in runs.values() if run.runtime == "torch")
    answers_s = len(runs) * len(datasets.test) * speed.seconds_per_sample
    return _START_S + latency_s + processes_s + kernels_s + answers_s


def describe_seconds(seconds: float) -> str:
    """Return a duration in two figures, as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _shortened(
    technique: Technique, data: TrainingData, speed: SamplePass
) -> tuple[TrainingData, Technique]:
    """Return few samples, and the technique with as few training steps."""
    fitting = int(SECONDS_PER_RECIPE / max(speed.seconds_per_sample, 1e-9))
    number = min(_MAX_SAMPLES, max(_MIN_SAMPLES, fitting))
    train = number
    schedule = _schedule(technique)
    changes: dict[str, Any] = {}
    if schedule is not None:
        steps = min(_MAX_STEPS, max(1, fitting // (_TRAINING_COST * schedule.batch_size)))
        train = max(2, steps * schedule.batch_size)
        changes = {"epochs": 1}
        if not isinstance(technique, Schedule):
            changes = {"recover": schedule.model_copy(update=changes)}
    if isinstance(technique, LotteryTicket):
        changes |= {"rewind_steps": 0}
    few = TrainingData(
        data.train.draw(0, min(train, len(data.train)))[0],
        data.validation.draw(0, min(number, len(data.validation)))[0],
    )
    return few, technique.model_copy(update=changes)


def _schedule(technique: Technique) -> Schedule | None:
    """Return how the technique trains, or None if it does not."""
    if isinstance(technique, Schedule):
        return technique
    between = getattr(technique, "recover", None)
    return between if isinstance(between, Schedule) else None


def estimate_s(
    technique: Technique,
    short: Technique,
    took_s: float,
    data: TrainingData,
    few: TrainingData,
    speed: SamplePass,
    bars: Sequence[Task],
) -> float:
    """Estimate the time of a technique in a build from that of its dry run.

    `bars` are the progress bars of its dry run, which know how long a training step takes.
    """
    schedule, short_schedule = _schedule(technique), _schedule(short)
    if schedule is not None and short_schedule is not None:
        steps = count_steps(len(data.train), schedule)
        tried_steps = count_steps(len(few.train), short_schedule)
        speeds = [task.finished_speed or task.speed for task in bars if task.total == tried_steps]
        return took_s + sum((steps - tried_steps) / speed for speed in speeds if speed)
    most = getattr(technique, "samples", None)
    observed, tried = (
        min(len(split), math.inf if most is None else most)
        for split in (data.validation, few.validation)
    )
    return took_s + (observed - tried) * speed.seconds_per_sample


def _make_model(state: CompressionState, datasets: Datasets) -> str:
    """Make what would be served, which compares it with the network; return its runtime."""
    samples = datasets.validation.samples
    may_be_packed = state.packing != "never" and (state.graph is None or state.quantized)
    if state.packed and may_be_packed and require_equal_kernels(state, samples):
        return "torch"
    if state.graph is None:
        export_state(state, samples)
    return "onnx"
