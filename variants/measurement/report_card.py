"""Report cards: answers, latency, memory and size of variants that are measured together.

    artifacts ─▶ kernels of sparse layers ─▶ runners, which use them
              ─▶ runners ─▶ answers   (evaluation, quality: paired with dense)  ─┐
                        ─▶ latency    (profiling, alternating with dense)        ├─▶ ReportCard
              ─▶ load time and memory (footprint, in fresh processes), size ─────┘

The samples must be test samples, which techniques never receive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from variants.catalog.catalog import (
    AnswerComparison,
    Interval,
    Macs,
    Model,
    ReportCard,
    Timing,
    Variant,
)
from variants.catalog.device import Device, provider
from variants.catalog.hardware import hardware, libraries
from variants.catalog.recipe import DENSE
from variants.measurement.evaluation import accuracy, accuracy_difference, agreement, compute_scores
from variants.measurement.footprint import PROCESSES, measure_footprint
from variants.measurement.macs import count_macs
from variants.measurement.profiling import (
    BATCH_SIZES,
    CALLS_PER_TURN,
    SECONDS_PER_POINT,
    Clock,
    profile,
)
from variants.measurement.progress import PhaseCallback, ignore_phases, subtask
from variants.measurement.provenance import provenance
from variants.measurement.quality import compare_answers, dense_answers
from variants.measurement.reference import dense_loaders, slower_runtimes
from variants.measurement.runner_files import compressed_bytes, runner_files, to_onnx
from variants.measurement.size import measure_size
from variants.model.dataset import Samples, Split, count, rows
from variants.runtime.runner import Runner, load_runner, measure_kernels

_EXPORT_SAMPLES: Final = 2
"""Samples for an export. With a single one the exporter would fix the batch size to 1."""


def measure(
    catalog: Path,
    model: Model,
    variants: Mapping[str, Variant],
    split: Split,
    *,
    threads: int = 1,
    device: Device = "cpu",
    seconds_per_point: float = SECONDS_PER_POINT,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    processes: int = PROCESSES,
    seed: int = 0,
    on_progress: PhaseCallback = ignore_phases,
    only: Collection[str] | None = None,
    skip_slower_runtimes: bool = False,
    least_calls: int = CALLS_PER_TURN,
    clock: Clock = time.perf_counter,
) -> dict[str, ReportCard]:
    """Measure variants whose artifacts are in the folder `catalog`. `dense` must be among them.

    `split` contains the test samples. Everything is measured on `device`. Most time is spent on
    latency: `seconds_per_point` for each variant and batch size. Load time and memory are measured
    in this number of `processes` each. With `only`, just these variants get report cards; the
    others serve for comparison. With `skip_slower_runtimes`, runtimes in which the present card of
    dense was slower at every batch size are not timed again. `least_calls` and `clock` are those of
    `profile`.

    Raises `ValueError` if `dense` is missing, there are no samples, an artifact is damaged, or the
    device cannot be used.
    """
    if DENSE not in variants:
        raise ValueError("`dense` must be measured with the variants that are compared with it")
    if len(split) == 0:
        raise ValueError("there are no test samples to measure on")

    machine = hardware(threads, device)
    circumstances = provenance(Path.cwd(), seed=seed)
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    kernels = {
        name: measure_kernels(catalog, model, variant, threads=threads, device=device)
        for name, variant in variants.items()
    }
    loaders = {
        name: partial(
            load_runner,
            catalog,
            model,
            variant,
            threads=threads,
            device=device,
            kernels=kernels[name],
        )
        for name, variant in variants.items()
    }
    evaluations = _evaluate(loaders, model, split, seed, on_progress)
    # Dense may be faster in torch than in the runtime that serves it. Variant names have no spaces.
    skipped = slower_runtimes(variants[DENSE], machine.key) if skip_slower_runtimes else ()
    dense = {
        runtime: (DENSE if runtime == variants[DENSE].runner else f"{DENSE} in {runtime}", load)
        for runtime, load in dense_loaders(
            catalog, model, variants[DENSE], threads=threads, device=device
        ).items()
        if runtime not in skipped
    }
    latencies = profile(
        loaders | dict(dense.values()),
        split.samples,
        dense={runtime: name for runtime, (name, _) in dense.items()},
        seconds_per_point=seconds_per_point,
        batch_sizes=batch_sizes,
        seed=seed,
        on_progress=partial(on_progress, "latency"),
        least_calls=least_calls,
        clock=clock,
    )

    cards = {}
    wanted = {name: variant for name, variant in variants.items() if only is None or name in only}
    for completed, (name, variant) in enumerate(wanted.items(), start=1):
        size = measure_size(catalog, variant)
        files = runner_files(catalog, variant)
        footprint = measure_footprint(
            catalog,
            model,
            variant,
            split.samples,
            threads=threads,
            device=device,
            batch_sizes=batch_sizes,
            processes=processes,
            kernels=kernels[name],
        )
        cards[name] = ReportCard(
            hardware=machine,
            libraries=libraries(),
            provenance=circumstances,
            measured_at=now,
            test_samples=len(split),
            accuracy=evaluations[name].accuracy,
            accuracy_difference=evaluations[name].difference,
            agreement=evaluations[name].agreement,
            answers=evaluations[name].answers,
            latencies=latencies[name],
            load=footprint.load,
            macs=_macs(model, variant, files, split.samples),
            parameters=size.parameters,
            nonzeros=size.nonzeros,
            weight_bytes=size.weight_bytes,
            artifact_bytes=sum(file.size_bytes for file in variant.files),
            served_bytes=sum(len(content) for content in files.values()),
            compressed_bytes=compressed_bytes(files),
            resident_bytes=footprint.resident_bytes,
            peak_bytes=footprint.peak_bytes,
            kernels=kernels[name],
            provider=provider(variant.runner, device),
            elsewhere=footprint.elsewhere,
            timing=Timing(
                seconds_per_point=seconds_per_point,
                is_quick=seconds_per_point < SECONDS_PER_POINT,
            ),
            gpu_bytes=footprint.gpu_bytes,
        )
        on_progress("memory", completed / len(wanted))
    return cards


QUICK_BATCH_SIZES: Final = (1, 8, 64)
QUICK_SECONDS_PER_POINT: Final = 0.2


def chosen_measure(
    *,
    quick: bool = False,
    batch_sizes: Sequence[int] | None = None,
    seconds_per_point: float | None = None,
) -> partial[dict[str, ReportCard]]:
    """Return `measure` with the effort that a user chose; what is None has its default.

    `quick` takes three batch sizes, a short time for each and one process for memory; the report
    cards say so. Raises `ValueError` if the batch sizes are not ascending positive numbers.
    """
    sizes = batch_sizes or (QUICK_BATCH_SIZES if quick else BATCH_SIZES)
    if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(
            f"batch sizes must be positive and ascend, as in 1, 8, 64; got {list(sizes)}"
        )
    default_s = QUICK_SECONDS_PER_POINT if quick else SECONDS_PER_POINT
    return partial(
        measure,
        batch_sizes=tuple(sizes),
        seconds_per_point=default_s if seconds_per_point is None else seconds_per_point,
        processes=1 if quick else PROCESSES,
    )


@dataclass(frozen=True)
class _Evaluation:
    """Answer quality of a variant, paired with dense."""

    accuracy: Interval
    difference: Interval
    agreement: Interval
    answers: AnswerComparison


def _evaluate(
    loaders: Mapping[str, Callable[[], Runner]],
    model: Model,
    split: Split,
    seed: int,
    on_progress: PhaseCallback,
) -> dict[str, _Evaluation]:
    """Run every variant on all samples, dense first. Keeps the scores of two variants at a time."""
    on_answers = partial(on_progress, "answers")
    names = sorted(loaders, key=lambda name: name != DENSE)
    evaluations = {}
    for index, name in enumerate(names):
        scores = compute_scores(
            loaders[name](), model, split.samples, subtask(on_answers, index, len(names))
        )
        predictions = scores.argmax(axis=1)
        share = accuracy(predictions, split.labels)
        if name == DENSE:
            dense_scores, dense_predictions = scores, predictions
            # The difference of dense from itself is exactly zero, not estimated.
            none, all_samples = (Interval(value=v, low=v, high=v) for v in (0.0, 1.0))
            answers = dense_answers(scores, split.labels)
            evaluations[name] = _Evaluation(share, none, all_samples, answers)
        else:
            evaluations[name] = _Evaluation(
                accuracy=share,
                difference=accuracy_difference(predictions, dense_predictions, split.labels),
                agreement=agreement(predictions, dense_predictions),
                answers=compare_answers(scores, dense_scores, split.labels, seed=seed),
            )
    return evaluations


def _macs(
    model: Model, variant: Variant, files: Mapping[str, bytes], samples: Samples
) -> Macs | None:
    few = rows(samples, np.arange(_EXPORT_SAMPLES) % count(samples))
    try:
        onnx_model = to_onnx(model, variant, files, few)
    except ValueError:  # packed layers may not be expressible in ONNX
        return None
    return count_macs(onnx_model, rows(samples, slice(0, 1)))
