"""What quantising costs, on samples that gave no ranges, against the FP32 graph.

graphs by calibrator ─▶ the one that agrees most
layers, a budget ─▶ the worst of them left in FP32, one by one, until the budget holds
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from variants.compression.quantization.layer import QuantizableLayer
from variants.model.dataset import Samples, Split, count, rows
from variants.runtime.onnx import OnnxRunner

Scores: TypeAlias = NDArray[np.floating[Any]]
"""`[n, classes]`."""

GraphWriter: TypeAlias = Callable[[Sequence[QuantizableLayer]], bytes]
"""Returns the graph with these layers quantised and the others in FP32."""

_BATCH: Final = 32
_RANKED_ON: Final = 128
"""Samples that rank the layers: signal to noise settles sooner than accuracy."""


class GraphComparator:
    """Compares graphs with the FP32 one on the same held-out samples."""

    def __init__(self, dense: bytes, split: Split, output: str) -> None:
        """`output` names the model's scores, `[batch, classes]`."""
        self.split = split
        self._output = output
        self._dense = self._scores(dense, split.samples)

    def agreement(self, graph: bytes) -> float:
        """Return the share of samples that both put into the same class."""
        scores = self._scores(graph, self.split.samples)
        return float((scores.argmax(axis=1) == self._dense.argmax(axis=1)).mean())

    def drop(self, graph: bytes) -> float:
        """Return the FP32 graph's accuracy minus this one's, a share of the samples."""
        right, dense_right = (
            scores.argmax(axis=1) == self.split.labels
            for scores in (self._scores(graph, self.split.samples), self._dense)
        )
        return float(dense_right.mean() - right.mean())

    def signal_to_noise_db(self, graph: bytes) -> float:
        """Return the scores' power over that of their error, in dB, on the first samples."""
        number = min(_RANKED_ON, len(self.split))
        scores = self._scores(graph, rows(self.split.samples, slice(0, number)))
        return signal_to_noise_db(scores, self._dense[:number])

    def _scores(self, graph: bytes, samples: Samples) -> Scores:
        runner = OnnxRunner(graph, threads=1)
        starts = range(0, count(samples), _BATCH)
        return np.concatenate(
            [runner(rows(samples, slice(s, s + _BATCH)))[self._output] for s in starts]
        )


def signal_to_noise_db(scores: Scores, reference: Scores) -> float:
    """Return 10 log10 of the reference's power over that of what the scores differ by: dB."""
    noise = np.square(scores.astype(np.float64) - reference).sum()
    power = np.square(reference.astype(np.float64)).sum()
    return float(10 * np.log10(power / noise)) if noise else np.inf


@dataclass(frozen=True)
class MixedPrecisionGraph:
    """A graph that is within a budget."""

    graph: bytes
    quantised: tuple[QuantizableLayer, ...]
    float_layers: tuple[tuple[QuantizableLayer, float], ...]
    """The layers that stay in FP32, worst first, with the dB of quantising each alone."""
    drop: float
    samples: int

    def describe(self) -> tuple[str, ...]:
        """Say what stays in FP32 and why, and what was compared."""
        return (
            *(
                f"layer {layer.name} stays in FP32: it alone in INT8 leaves {db:.1f} dB of signal "
                "to noise"
                for layer, db in self.float_layers
            ),
            f"accuracy {0.0 - self.drop:+.2%} to FP32, on {self.samples} validation samples that "
            "gave no ranges",
        )


def choose_by_agreement(
    writers: Mapping[str, GraphWriter],
    layers: Sequence[QuantizableLayer],
    comparator: GraphComparator,
) -> tuple[str, str]:
    """Return which of the writers makes the best graph, and a note with the figures of all.

    Best is what puts most of the held-out samples into the FP32 graph's class; of several that do
    so, what leaves most signal to noise in the scores.
    """
    found = {}
    for name, write in writers.items():
        graph = write(layers)
        found[name] = comparator.agreement(graph), comparator.signal_to_noise_db(graph)
    best = max(found, key=lambda name: found[name])
    figures = ", ".join(f"{name} {same:.2%} ({db:.1f} dB)" for name, (same, db) in found.items())
    number = len(comparator.split)
    return best, f"ranges by {best}; agreement with FP32 on {number} held-out samples: {figures}"


def limit_accuracy_drop(
    max_drop: float,
    layers: Sequence[QuantizableLayer],
    write: GraphWriter,
    comparator: GraphComparator,
    progress: Progress,
) -> MixedPrecisionGraph:
    """Leave layers in FP32 until the held-out samples' drop of accuracy is at most `max_drop`.

    Nothing is left out if it is so already. Else the layers are ranked by the scores' signal to
    noise when each alone is quantised, and leave in that order, worst first: greedy, so that
    another choice of as many layers may do better.

    Raises `ValueError` if the budget does not hold before the last layer is left.
    """
    graph = write(layers)
    drop = first = comparator.drop(graph)
    if drop <= max_drop:
        return MixedPrecisionGraph(graph, tuple(layers), (), drop, len(comparator.split))
    ranked = sorted(
        (
            (layer, comparator.signal_to_noise_db(write([layer])))
            for layer in progress.track(layers, description="ranking layers")
        ),
        key=lambda pair: pair[1],
    )
    for number in range(1, len(ranked)):
        worst = {layer.node for layer, _ in ranked[:number]}
        quantised = tuple(layer for layer in layers if layer.node not in worst)
        graph = write(quantised)
        drop = comparator.drop(graph)
        if drop <= max_drop:
            return MixedPrecisionGraph(
                graph, quantised, tuple(ranked[:number]), drop, len(comparator.split)
            )
    raise ValueError(
        f"quantising costs {first:.2%} of {len(comparator.split)} held-out samples, and still "
        f"{drop:.2%} with only the best layer, {ranked[-1][0].name}, in INT8: "
        f"max_drop = {max_drop:.2%} cannot be kept"
    )
