"""Where a search's candidates are made and measured against dense, as they would be served.

    recipe ─▶ Workpiece ─▶ artifact ─▶ answers on both parts, size, latency in turns ─▶ Measured

Validation is divided. Techniques and the search's decisions see the selection part; only what is
claimed in the end comes from the confirmation part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from variants.analysis.search.ledger import Measured, Pairs
from variants.build.build import create_artifact
from variants.build.check import CheckedProject
from variants.catalog import artifact
from variants.catalog.catalog import BatchLatency, Model, Runtime, Variant
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE, Recipe
from variants.compression.techniques import resolve_all
from variants.measurement.evaluation import compute_scores, count_pairs
from variants.measurement.profiling import profile
from variants.measurement.reference import dense_loaders
from variants.measurement.size import measure_size
from variants.model.dataset import Split, TrainingData
from variants.model.state import CompressionState
from variants.runtime.plan import WEIGHTS, storable_tensors
from variants.runtime.runner import Runner, load_runner

CONFIRMATION_SHARE: Final = 0.5
_CANDIDATE: Final = "candidate"
_SILENT: Final = Progress(disable=True)


@dataclass(frozen=True, eq=False)
class Bench:
    """Dense, saved and answered, and the two parts of the validation split."""

    folder: Path
    model: Model
    state: CompressionState
    data: TrainingData
    """The train split, and of validation the selection part alone: so nothing that a technique
    learns or decides comes from the confirmation part."""
    confirmation: Split
    dense: Variant
    dense_answers: Mapping[str, NDArray[np.int64]]
    parameters: int
    """Dense's."""
    bytes: int
    """Dense's."""
    subject: str
    """What decides a candidate's record beside its recipe: model, data, parts, batch, machine."""
    batch_size: int
    threads: int
    seconds_per_point: float

    @property
    def selection(self) -> Split:
        """The part of validation that decides what is tried next and what is put forward."""
        return self.data.validation


def open_bench(
    checked: CheckedProject,
    folder: Path,
    *,
    batch_size: int,
    threads: int,
    seconds_per_point: float,
    seed: int,
) -> Bench:
    """Divide the validation split by `seed`, and build dense in the empty folder.

    Raises `ValueError` if validation has fewer than two samples.
    """
    selection, confirmation = divide(checked.datasets.validation, seed)
    data = TrainingData(checked.datasets.train, selection)
    state = CompressionState(checked.network, checked.interface, dense=checked.network)
    model = checked.model()
    runner, files = create_artifact(state, data)
    weights = safetensors.torch.save(storable_tensors(checked.network))
    dense = Variant(name=DENSE, recipe=(), runner=runner, files=())
    dense = artifact.save(folder, dense, {**files, WEIGHTS: weights})
    run = load_runner(folder, model, dense, threads=threads)
    subject = {
        "model": model.model_dump(mode="json"),
        "network": str(checked.network),
        "parts": [CONFIRMATION_SHARE, seed],
        "batch_size": batch_size,
        "hardware": hardware(threads).key,
    }
    return Bench(
        folder=folder,
        model=model,
        state=state,
        data=data,
        confirmation=confirmation,
        dense=dense,
        dense_answers={
            part: compute_scores(run, model, split.samples).argmax(axis=1)
            for part, split in (("selection", selection), ("confirmation", confirmation))
        },
        parameters=measure_size(folder, dense).parameters,
        bytes=sum(map(len, files.values())),
        subject=json.dumps(subject, sort_keys=True),
        batch_size=batch_size,
        threads=threads,
        seconds_per_point=seconds_per_point,
    )


def divide(validation: Split, seed: int) -> tuple[Split, Split]:
    """Return two parts of a split that share no sample: for selection, and for confirmation."""
    if len(validation) < 2:
        raise ValueError(
            f"a search needs 2 validation samples or more, there are {len(validation)}"
        )
    confirming = max(1, int(len(validation) * CONFIRMATION_SHARE))
    selection, confirmation = validation.draw(seed, len(validation) - confirming, confirming)
    return selection, confirmation


def try_recipe(bench: Bench, recipe: Recipe, on_step: Callable[[str], None]) -> Measured:
    """Make and measure a candidate; `on_step` hears what is being done.

    Raises `ValueError` or an error of onnxruntime's if the recipe does not suit the model, and
    whatever torch raises.
    """
    state = bench.state
    for technique in resolve_all(recipe):
        on_step(technique.kind)
        state = technique.apply(state, bench.data, _SILENT)
    on_step("measuring")
    runner, files = create_artifact(state, bench.data)
    variant = Variant(name=_CANDIDATE, recipe=recipe, runner=runner, files=())
    variant = artifact.save(bench.folder, variant, files)
    load = partial(load_runner, bench.folder, bench.model, variant, threads=bench.threads)

    with _threads_kept():
        pairs = _answer(bench, load())
        latency = _latency(bench, load)
    return Measured(
        **pairs,
        parameters=measure_size(bench.folder, variant).parameters,
        bytes=sum(map(len, files.values())),
        latency_s=latency.p50_s,
        dense_latency_s=min(latency.dense_p50_s.values()),
        speedup=latency.speedup,
    )


def _answer(bench: Bench, run: Runner) -> dict[str, Pairs]:
    return {
        part: _pairs(
            compute_scores(run, bench.model, split.samples).argmax(axis=1),
            bench.dense_answers[part],
            split.labels,
        )
        for part, split in (("selection", bench.selection), ("confirmation", bench.confirmation))
    }


def _latency(bench: Bench, load: Callable[[], Runner]) -> BatchLatency:
    references = dense_loaders(bench.folder, bench.model, bench.dense, threads=bench.threads)
    names: dict[Runtime, str] = {runtime: f"{DENSE} in {runtime}" for runtime in references}
    measured = profile(
        {_CANDIDATE: load, **{names[runtime]: make for runtime, make in references.items()}},
        bench.selection.samples,
        dense=names,
        seconds_per_point=bench.seconds_per_point,
        batch_sizes=(bench.batch_size,),
    )
    return measured[_CANDIDATE][0]


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Undo what a torch runner does to the process, or the next candidate would train on fewer.

    Sums differ by the number of threads, so what comes out must not depend on what came before.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pairs(
    predictions: NDArray[np.int64], dense: NDArray[np.int64], labels: NDArray[np.int64]
) -> Pairs:
    both, candidate_only, dense_only, neither = count_pairs(predictions, dense, labels)
    return Pairs(both=both, candidate=candidate_only, dense=dense_only, neither=neither)
