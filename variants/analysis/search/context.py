"""Build a search's candidates and measure them against dense, as they would be served.

    recipe ─▶ CompressionState ─▶ artifact ─▶ predictions, size, latency ─▶ Measurement

The validation split is divided into two parts. Techniques and the decisions of the search use the
selection part. The final claims come from the confirmation part only.
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

from variants.analysis.search.store import Measurement, PairCounts
from variants.build.build import create_artifact
from variants.build.check import CheckedProject
from variants.build.runtime_choice import choose_runtime
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
from variants.runtime.runner import Runner, load_runner, measure_kernels

CONFIRMATION_SHARE: Final = 0.5
"""Share of the validation samples in the confirmation part."""
_CANDIDATE: Final = "candidate"
_SILENT: Final = Progress(disable=True)


@dataclass(frozen=True, eq=False)
class SearchContext:
    """The dense artifact with its predictions, the data, and the settings of measurements."""

    folder: Path
    model: Model
    state: CompressionState
    data: TrainingData
    """The train split, and the selection part as validation. So nothing that a technique learns or
    decides comes from the confirmation part."""
    confirmation: Split
    dense: Variant
    dense_predictions: Mapping[str, NDArray[np.int64]]
    """Predicted classes by part, `selection` and `confirmation`."""
    parameters: int
    """Number of parameters of dense."""
    bytes: int
    """Size of dense's served files."""
    conditions: str
    """JSON of everything beside the recipe that a candidate's record depends on: model, data,
    parts, batch size, hardware."""
    batch_size: int
    threads: int
    seconds_per_point: float

    @property
    def selection(self) -> Split:
        """The part of validation that the search's decisions are based on."""
        return self.data.validation


def prepare_context(
    checked: CheckedProject,
    folder: Path,
    *,
    batch_size: int,
    threads: int,
    seconds_per_point: float,
    seed: int,
) -> SearchContext:
    """Divide the validation split by `seed`, and build dense in the empty folder.

    Raises `ValueError` if the validation split has fewer than 2 samples.
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
    conditions = {
        "model": model.model_dump(mode="json"),
        "network": str(checked.network),
        "parts": [CONFIRMATION_SHARE, seed],
        "batch_size": batch_size,
        "hardware": hardware(threads).key,
    }
    return SearchContext(
        folder=folder,
        model=model,
        state=state,
        data=data,
        confirmation=confirmation,
        dense=dense,
        dense_predictions={
            part: compute_scores(run, model, split.samples).argmax(axis=1)
            for part, split in (("selection", selection), ("confirmation", confirmation))
        },
        parameters=measure_size(folder, dense).parameters,
        bytes=sum(map(len, files.values())),
        conditions=json.dumps(conditions, sort_keys=True),
        batch_size=batch_size,
        threads=threads,
        seconds_per_point=seconds_per_point,
    )


def divide(validation: Split, seed: int) -> tuple[Split, Split]:
    """Return two disjoint parts of a split: selection and confirmation."""
    if len(validation) < 2:
        raise ValueError(
            f"a search needs at least 2 validation samples, there are {len(validation)}"
        )
    size = max(1, int(len(validation) * CONFIRMATION_SHARE))
    selection, confirmation = validation.draw(seed, len(validation) - size, size)
    return selection, confirmation


def measure_recipe(
    context: SearchContext, recipe: Recipe, on_step: Callable[[str], None]
) -> Measurement:
    """Build and measure a candidate. `on_step` is called with the name of each step.

    Raises `ValueError` or an error of onnxruntime if the recipe does not suit the model. Errors of
    torch pass through.
    """
    state = context.state
    for technique in resolve_all(recipe):
        on_step(technique.kind)
        state = technique.apply(state, context.data, _SILENT)
    on_step("measuring")
    state = choose_runtime(state, context.data.validation.samples, threads=context.threads)
    runner, files = create_artifact(state, context.data)
    variant = Variant(name=_CANDIDATE, recipe=recipe, runner=runner, files=())
    variant = artifact.save(context.folder, variant, files)
    with _torch_threads_restored():
        kernels = measure_kernels(context.folder, context.model, variant, threads=context.threads)
    load = partial(
        load_runner,
        context.folder,
        context.model,
        variant,
        threads=context.threads,
        kernels=kernels,
    )

    with _torch_threads_restored():
        pairs = _count_both_parts(context, load())
        latency = _measure_latency(context, load)
    return Measurement(
        **pairs,
        parameters=measure_size(context.folder, variant).parameters,
        bytes=sum(map(len, files.values())),
        latency_s=latency.p50_s,
        dense_latency_s=min(latency.dense_p50_s.values()),
        speedup=latency.speedup,
    )


def _count_both_parts(context: SearchContext, run: Runner) -> dict[str, PairCounts]:
    return {
        part: _count_pairs(
            compute_scores(run, context.model, split.samples).argmax(axis=1),
            context.dense_predictions[part],
            split.labels,
        )
        for part, split in (
            ("selection", context.selection),
            ("confirmation", context.confirmation),
        )
    }


def _measure_latency(context: SearchContext, load: Callable[[], Runner]) -> BatchLatency:
    references = dense_loaders(
        context.folder, context.model, context.dense, threads=context.threads
    )
    names: dict[Runtime, str] = {runtime: f"{DENSE} in {runtime}" for runtime in references}
    measured = profile(
        {_CANDIDATE: load, **{names[runtime]: make for runtime, make in references.items()}},
        context.selection.samples,
        dense=names,
        seconds_per_point=context.seconds_per_point,
        batch_sizes=(context.batch_size,),
    )
    return measured[_CANDIDATE][0]


@contextmanager
def _torch_threads_restored() -> Iterator[None]:
    """Restore the number of torch threads, which a torch runner sets for the whole process.

    The number of threads changes the rounding of sums, so without this a candidate's training
    would depend on the candidates before it.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _count_pairs(
    predictions: NDArray[np.int64], dense: NDArray[np.int64], labels: NDArray[np.int64]
) -> PairCounts:
    both, candidate_only, dense_only, neither = count_pairs(predictions, dense, labels)
    return PairCounts(both=both, candidate=candidate_only, dense=dense_only, neither=neither)
