"""A report card for every variant, measured together: answers, speed, memory and size.

    artifacts ─▶ runners ─▶ answers   (evaluation, paired with dense)  ─┐
                        ─▶ latency   (profiling, in turns with dense)  ├─▶ ReportCard
              ─▶ memory (footprint, in a fresh process), size ──────────┘

The samples must be test samples, which no technique has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog import Interval, Model, ReportCard, Variant
from variants.evaluation import accuracy, accuracy_difference, agreement, predict
from variants.footprint import resident_bytes
from variants.hardware import hardware, libraries
from variants.profiling import BATCH_SIZES, SECONDS_PER_POINT, profile
from variants.progress import part
from variants.recipe import DENSE
from variants.runners import Runner, load_runner
from variants.size import measure_size

OnProgress: TypeAlias = Callable[[str, float], None]
"""Hears what is being measured (answers, latency, memory) and which share of it is done, 0 to 1."""


def measure(
    catalog: Path,
    model: Model,
    variants: Mapping[str, Variant],
    samples: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    threads: int = 1,
    seconds_per_point: float = SECONDS_PER_POINT,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    on_progress: OnProgress = lambda what, share: None,
) -> dict[str, ReportCard]:
    """Measure variants whose artifacts lie in the folder `catalog`; `dense` must be among them.

    `samples` are the test samples `[n, ...]` and `labels` their classes, INT64 `[n]`. Time goes
    mostly to latency: `seconds_per_point` for each variant at each batch size.

    Raises `ValueError` if `dense` is missing, there are no samples, or an artifact is damaged.
    """
    if DENSE not in variants:
        raise ValueError("the variant `dense` must be measured with the others: they are paired")
    if len(samples) == 0:
        raise ValueError("there are no test samples to measure on")

    machine = hardware(threads)
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    loaders = {
        name: partial(load_runner, catalog, model, variant, threads=threads)
        for name, variant in variants.items()
    }
    answers = _answers(loaders, model, samples, on_progress)
    latencies = profile(
        loaders,
        model,
        samples,
        seconds_per_point=seconds_per_point,
        batch_sizes=batch_sizes,
        on_share=partial(on_progress, "latency"),
    )

    cards = {}
    for done, (name, variant) in enumerate(variants.items(), start=1):
        size = measure_size(catalog, variant)
        cards[name] = ReportCard(
            hardware=machine,
            libraries=libraries(),
            measured_at=now,
            test_samples=len(samples),
            accuracy=accuracy(answers[name], labels),
            accuracy_difference=_difference(name, answers, labels),
            agreement=_agreement(name, answers),
            latencies=latencies[name],
            parameters=size.parameters,
            nonzeros=size.nonzeros,
            weight_bytes=size.weight_bytes,
            artifact_bytes=sum(file.size_bytes for file in variant.files),
            resident_bytes=resident_bytes(
                catalog, model, variant, threads=threads, batch_sizes=batch_sizes
            ),
        )
        on_progress("memory", done / len(variants))
    return cards


def _answers(
    loaders: Mapping[str, Callable[[], Runner]],
    model: Model,
    samples: NDArray[Any],
    on_progress: OnProgress,
) -> dict[str, NDArray[np.int64]]:
    on_share = partial(on_progress, "answers")
    return {
        name: predict(load(), model, samples, part(on_share, index, len(loaders)))
        for index, (name, load) in enumerate(loaders.items())
    }


# Dense differs from itself by nothing: known, not estimated, so these intervals have no width.


def _difference(
    name: str, answers: Mapping[str, NDArray[np.int64]], labels: NDArray[np.int64]
) -> Interval:
    if name == DENSE:
        return Interval(value=0.0, low=0.0, high=0.0)
    return accuracy_difference(answers[name], answers[DENSE], labels)


def _agreement(name: str, answers: Mapping[str, NDArray[np.int64]]) -> Interval:
    if name == DENSE:
        return Interval(value=1.0, low=1.0, high=1.0)
    return agreement(answers[name], answers[DENSE])
