"""Compares quantized graphs with the FP32 graph, on samples that calibration did not use.

graphs by calibrator ─▶ the graph that agrees most with FP32
layers, accuracy budget ─▶ worst layers left in FP32, one by one, until the budget is met
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
"""Returns a graph with the given layers quantized and all others in FP32."""

_BATCH_SIZE: Final = 32
_RANKING_SAMPLES: Final = 128
"""Maximum number of samples to rank layers. Signal to noise needs fewer samples than accuracy."""


class GraphComparator:
    """Compares graphs with an FP32 graph on the same held-out samples."""

    def __init__(self, dense: bytes, split: Split, output: str) -> None:
        """Run the FP32 graph `dense`; `output` is the name of the scores, `[batch, classes]`."""
        self.split = split
        self._output = output
        self._dense = self._scores(dense, split.samples)

    def agreement(self, graph: bytes) -> float:
        """Return the share of samples for which both graphs predict the same class."""
        scores = self._scores(graph, self.split.samples)
        return float((scores.argmax(axis=1) == self._dense.argmax(axis=1)).mean())

    def drop(self, graph: bytes) -> float:
        """Return the FP32 graph's accuracy minus this graph's, as a share of the samples."""
        right, dense_right = (
            scores.argmax(axis=1) == self.split.labels
            for scores in (self._scores(graph, self.split.samples), self._dense)
        )
        return float(dense_right.mean() - right.mean())

    def signal_to_noise_db(self, graph: bytes) -> float:
        """Return the signal-to-noise ratio of the graph's scores on the first samples, in dB."""
        number = min(_RANKING_SAMPLES, len(self.split))
        scores = self._scores(graph, rows(self.split.samples, slice(0, number)))
        return signal_to_noise_db(scores, self._dense[:number])

    def _scores(self, graph: bytes, samples: Samples) -> Scores:
        return graph_scores(graph, samples, self._output)


def graph_scores(graph: bytes, samples: Samples, output: str) -> Scores:
    """Run a graph on all samples; `output` is the name of the scores, `[batch, classes]`."""
    runner = OnnxRunner(graph, threads=1)
    starts = range(0, count(samples), _BATCH_SIZE)
    return np.concatenate(
        [runner(rows(samples, slice(s, s + _BATCH_SIZE)))[output] for s in starts]
    )


def signal_to_noise_db(scores: Scores, reference: Scores) -> float:
    """Return the power of the reference over the power of the scores' error, in dB.

    The ratio is infinite if the scores are equal to the reference.
    """
    noise = np.square(scores.astype(np.float64) - reference).sum()
    power = np.square(reference.astype(np.float64)).sum()
    return float(10 * np.log10(power / noise)) if noise else np.inf


@dataclass(frozen=True)
class MixedPrecisionGraph:
    """A graph whose loss of accuracy is within a budget."""

    graph: bytes
    quantized: tuple[QuantizableLayer, ...]
    float_layers: tuple[tuple[QuantizableLayer, float], ...]
    """The layers that stay in FP32, worst first, each with the signal-to-noise ratio, in dB, of the
    graph in which only this layer is quantized."""
    drop: float
    """Loss of accuracy against FP32, as a share of the held-out samples."""
    samples: int
    """Number of held-out samples."""

    def describe(self) -> tuple[str, ...]:
        """Return notes on the layers that stay in FP32 and on the accuracy."""
        return (
            *(
                f"layer {layer.name} stays in FP32: the signal-to-noise ratio is {db:.1f} dB with "
                "only this layer in INT8"
                for layer, db in self.float_layers
            ),
            f"accuracy {0.0 - self.drop:+.2%} against FP32, on {self.samples} held-out validation "
            "samples",
        )


def choose_by_agreement(
    writers: Mapping[str, GraphWriter],
    layers: Sequence[QuantizableLayer],
    comparator: GraphComparator,
) -> tuple[str, str]:
    """Return the name of the writer of the best graph, and a note on how all graphs compare.

    The best graph predicts the FP32 graph's class for most held-out samples. Among equals it has
    the highest signal-to-noise ratio.
    """
    figures = {}
    for name, write in writers.items():
        graph = write(layers)
        figures[name] = comparator.agreement(graph), comparator.signal_to_noise_db(graph)
    best = max(figures, key=lambda name: figures[name])
    compared = ", ".join(f"{name} {same:.2%} ({db:.1f} dB)" for name, (same, db) in figures.items())
    number = len(comparator.split)
    return best, f"ranges by {best}; agreement with FP32 on {number} held-out samples: {compared}"


def limit_accuracy_drop(
    max_drop: float,
    layers: Sequence[QuantizableLayer],
    write: GraphWriter,
    comparator: GraphComparator,
    progress: Progress,
) -> MixedPrecisionGraph:
    """Leave layers in FP32 until the loss of accuracy on held-out samples is at most `max_drop`.

    If quantizing all layers exceeds `max_drop`, the layers are ranked by the signal-to-noise ratio
    of the graph in which only this layer is quantized. They then stay in FP32 in this order, worst
    first. The search is greedy: another choice of as many layers may lose less.

    Raises `ValueError` if the budget is exceeded even with a single quantized layer.
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
        quantized = tuple(layer for layer in layers if layer.node not in worst)
        graph = write(quantized)
        drop = comparator.drop(graph)
        if drop <= max_drop:
            return MixedPrecisionGraph(
                graph, quantized, tuple(ranked[:number]), drop, len(comparator.split)
            )
    raise ValueError(
        f"max_drop = {max_drop:.2%} cannot be met on {len(comparator.split)} held-out samples: "
        f"accuracy falls by {first:.2%} with all layers in INT8, and by {drop:.2%} with only the "
        f"best, {ranked[-1][0].name}"
    )
