"""A report card for every variant, measured together: answers, speed, memory and size.

    artifacts ─▶ runners ─▶ answers   (evaluation, quality: paired with dense)  ─┐
                        ─▶ latency    (profiling, in turns with dense)           ├─▶ ReportCard
              ─▶ load time and memory (footprint, in fresh processes), size ─────┘

The samples must be test samples, which no technique has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from variants.catalog.catalog import AnswerComparison, Interval, Macs, Model, ReportCard, Variant
from variants.catalog.hardware import hardware, libraries
from variants.catalog.recipe import DENSE
from variants.measurement.evaluation import accuracy, accuracy_difference, agreement, compute_scores
from variants.measurement.footprint import PROCESSES, measure_footprint
from variants.measurement.macs import count_macs
from variants.measurement.profiling import BATCH_SIZES, SECONDS_PER_POINT, profile
from variants.measurement.progress import part
from variants.measurement.provenance import provenance
from variants.measurement.quality import compare_answers, dense_answers
from variants.measurement.reference import dense_loaders
from variants.measurement.runner_files import compressed_bytes, graph, runner_files
from variants.measurement.size import measure_size
from variants.model.dataset import Samples, Split, count, rows
from variants.runtime.runner import Runner, load_runner

PhaseCallback: TypeAlias = Callable[[str, float], None]
"""Hears what is being measured (answers, latency, memory) and which share of it is done, 0 to 1."""

_EXPORTED: Final = 2
"""Samples to export a network with: from one the exporter would take a batch to be of one."""


def measure(
    catalog: Path,
    model: Model,
    variants: Mapping[str, Variant],
    split: Split,
    *,
    threads: int = 1,
    seconds_per_point: float = SECONDS_PER_POINT,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    processes: int = PROCESSES,
    seed: int = 0,
    on_progress: PhaseCallback = lambda what, share: None,
) -> dict[str, ReportCard]:
    """Measure variants whose artifacts lie in the folder `catalog`; `dense` must be among them.

    `split` are the test samples. Time goes mostly to latency: `seconds_per_point` for each variant
    at each batch size. Load time and memory are seen in so many fresh `processes` each.

    Raises `ValueError` if `dense` is missing, there are no samples, or an artifact is damaged.
    """
    if DENSE not in variants:
        raise ValueError("the variant `dense` must be measured with the others: they are paired")
    if len(split) == 0:
        raise ValueError("there are no test samples to measure on")

    machine = hardware(threads)
    circumstances = provenance(Path.cwd(), seed=seed)
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    loaders = {
        name: partial(load_runner, catalog, model, variant, threads=threads)
        for name, variant in variants.items()
    }
    judged = _judge(loaders, model, split, seed, on_progress)
    # Dense may be faster in torch than as it is served; a name with a space is no variant's.
    dense = {
        runtime: (DENSE if runtime == variants[DENSE].runner else f"{DENSE} in {runtime}", load)
        for runtime, load in dense_loaders(catalog, model, variants[DENSE], threads=threads).items()
    }
    latencies = profile(
        loaders | dict(dense.values()),
        split.samples,
        dense={runtime: name for runtime, (name, _) in dense.items()},
        seconds_per_point=seconds_per_point,
        batch_sizes=batch_sizes,
        seed=seed,
        on_progress=partial(on_progress, "latency"),
    )

    cards = {}
    for done, (name, variant) in enumerate(variants.items(), start=1):
        size = measure_size(catalog, variant)
        files = runner_files(catalog, variant)
        footprint = measure_footprint(
            catalog,
            model,
            variant,
            split.samples,
            threads=threads,
            batch_sizes=batch_sizes,
            processes=processes,
        )
        cards[name] = ReportCard(
            hardware=machine,
            libraries=libraries(),
            provenance=circumstances,
            measured_at=now,
            test_samples=len(split),
            accuracy=judged[name].accuracy,
            accuracy_difference=judged[name].difference,
            agreement=judged[name].agreement,
            answers=judged[name].answers,
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
        )
        on_progress("memory", done / len(variants))
    return cards


@dataclass(frozen=True)
class _Judgement:
    """What the scores of a variant say, paired with dense's."""

    accuracy: Interval
    difference: Interval
    agreement: Interval
    answers: AnswerComparison


def _judge(
    loaders: Mapping[str, Callable[[], Runner]],
    model: Model,
    split: Split,
    seed: int,
    on_progress: PhaseCallback,
) -> dict[str, _Judgement]:
    """Run every variant on all samples, dense first; the scores of two are held at a time."""
    on_answers = partial(on_progress, "answers")
    names = sorted(loaders, key=lambda name: name != DENSE)
    judged = {}
    for index, name in enumerate(names):
        scores = compute_scores(
            loaders[name](), model, split.samples, part(on_answers, index, len(names))
        )
        predictions = scores.argmax(axis=1)
        share = accuracy(predictions, split.labels)
        if name == DENSE:
            dense_scores, dense_predictions = scores, predictions
            # Dense differs from itself by nothing: known, not estimated.
            nothing, all_of_them = (Interval(value=v, low=v, high=v) for v in (0.0, 1.0))
            answers = dense_answers(scores, split.labels)
            judged[name] = _Judgement(share, nothing, all_of_them, answers)
        else:
            judged[name] = _Judgement(
                accuracy=share,
                difference=accuracy_difference(predictions, dense_predictions, split.labels),
                agreement=agreement(predictions, dense_predictions),
                answers=compare_answers(scores, dense_scores, split.labels, seed=seed),
            )
    return judged


def _macs(
    model: Model, variant: Variant, files: Mapping[str, bytes], samples: Samples
) -> Macs | None:
    few = rows(samples, np.arange(_EXPORTED) % count(samples))
    try:
        whole = graph(model, variant, files, few)
    except ValueError:  # a packed layer may have no form in ONNX
        return None
    return count_macs(whole, rows(samples, slice(0, 1)))
