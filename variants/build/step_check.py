"""Compares the result of each compression step with what the step should compute.

    step that keeps the outputs ─▶ the outputs before
    masks                       ─▶ zero weights
    graph of a conversion       ─▶ the network, simulated as the conversion rounds

A graph that is less accurate than its simulation is wrong, not merely rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from variants.catalog.catalog import ReportCard
from variants.compression.export_comparison import relative_difference
from variants.compression.quantization.comparator import graph_scores
from variants.compression.quantization.fake import read_grids
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData, rows
from variants.model.forward import all_scores
from variants.model.state import CompressionState

MAX_UNEXPLAINED_DROP: Final = 0.05
"""Largest accuracy that a graph may lose against its simulation, as a share of the samples."""
FAR_BELOW: Final = 0.1
"""Loss of accuracy against dense that a build warns of, as a share of the samples."""
_STANDARD_ERRORS: Final = 3.0
"""Standard errors by which a loss must exceed the limit."""
_EXACT_TOLERANCE: Final = 1e-3
"""Largest difference of outputs after an exact step, relative to the largest output (FP32)."""
_MAX_SAMPLES: Final = 1000


def apply_checked(
    technique: Technique, state: CompressionState, data: TrainingData, progress: Progress
) -> CompressionState:
    """Apply a step and check its result on the first 1000 validation samples.

    If the graph of `int8` is wrong because of one layer, the layer stays in FP32 and a note says
    so. Raises `ValueError` if the result is wrong otherwise, and what the technique raises.
    """
    after = technique.apply(state, data, progress)
    fault = find_fault(technique, state, after, data.validation)
    if fault is None:
        return after
    if isinstance(technique, Int8) and after.graph is not None:
        names = list(read_grids(after.graph))
        repaired = _leave_out(technique, names, state, data, progress)
        if repaired is not None:
            name, result = repaired
            note = f"WARNING: layer {name} stays in FP32: with it in INT8, {fault}"
            return replace(result, notes=(*result.notes, note))
    raise ValueError(f"the result is wrong and is not published: {fault}")


def find_fault(
    technique: Technique, before: CompressionState, after: CompressionState, validation: Split
) -> str | None:
    """Return what is wrong with the result of a step, or None."""
    for name, mask in after.masks.items():
        if after.network.get_parameter(name)[~mask].any():
            return f"{name} has weights that are not zero where its mask removes them"
    number = min(_MAX_SAMPLES, len(validation))
    samples, labels = rows(validation.samples, slice(0, number)), validation.labels[:number]
    if technique.keeps_outputs:
        difference = relative_difference(
            all_scores(after.network, samples).numpy(), all_scores(before.network, samples).numpy()
        )
        if not difference <= _EXACT_TOLERANCE:  # NaN too
            return f"the outputs should not change, and changed by {difference:.1e} of their size"
    if after.graph is None or after.conversion is None:
        return None
    source = after.conversion.source.network
    with after.conversion.converter.simulate(source, after):
        expected = all_scores(source, samples).numpy()
    actual = graph_scores(after.graph, samples, after.interface.outputs[0].name)
    return compare(actual, expected, labels)


def compare(actual: NDArray[Any], expected: NDArray[Any], labels: NDArray[Any]) -> str | None:
    """Return a sentence if scores `[n, classes]` are less accurate than the expected, or None.

    The loss counts if it exceeds `MAX_UNEXPLAINED_DROP` by three standard errors of the paired
    difference.
    """
    right, expected_right = ((s.argmax(axis=1) == labels) for s in (actual, expected))
    loss = expected_right.astype(np.float64) - right
    error = loss.std() / np.sqrt(len(loss))
    if loss.mean() - _STANDARD_ERRORS * error <= MAX_UNEXPLAINED_DROP:
        return None
    return (
        f"the graph has an accuracy of {right.mean():.1%} on {len(labels)} validation samples, "
        f"and the network that is rounded alike has {expected_right.mean():.1%}"
    )


def far_below_dense(card: ReportCard) -> str | None:
    """Return a warning if a variant surely loses more than `FAR_BELOW` against dense, or None."""
    difference = card.accuracy_difference
    if difference.high >= -FAR_BELOW:
        return None
    return (
        f"WARNING: accuracy {card.accuracy.value:.2%}, {100 * difference.value:+.2f} points "
        f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}] against dense"
    )


def _leave_out(
    technique: Int8,
    names: list[str],
    state: CompressionState,
    data: TrainingData,
    progress: Progress,
) -> tuple[str, CompressionState] | None:
    """Return the one layer without which the graph is right, and that result; found by halving."""
    result = None
    while names:
        half = names[: (len(names) + 1) // 2]
        tried = technique.model_copy(update={"exclude": (*technique.exclude, *half)})
        try:
            result = tried.apply(state, data, progress)
        except ValueError:  # no layer is left to quantize
            result = None
        is_right = result is not None and not find_fault(tried, state, result, data.validation)
        if is_right and result is not None and len(half) == 1:
            return half[0], result
        names = half if is_right else names[len(half) :]
    return None
