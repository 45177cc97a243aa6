"""SmoothQuant: activations without outliers, so that INT8 loses less. Put it before `int8`."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from rich.progress import Progress

from variants.compression.quantization.smoothing import find_groups, largest_activations, smooth
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage


class SmoothQuant(Technique):
    """Divides activations by a scale for each channel, and multiplies it into what reads them.

    Xiao et al. 2022 (arXiv:2211.10438). The network computes what it did, up to rounding. Only
    where that is exact: from a LayerNorm or a Linear to the Linears that alone read it, if between
    them is nothing, a ReLU, or an attention that mixes tokens, as from its value to its output. The
    notes name the LayerNorms for which it is not, as those before a residual addition.
    """

    kind: ClassVar[str] = "smoothquant"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.FREE

    alpha: float = Field(default=0.5, ge=0, le=1)
    """How much of the difficulty goes from the activations, at 0, to the weights, at 1."""
    samples: int = Field(default=512, ge=1)
    """How many validation samples say how large activations are."""
    seed: int = 0

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with other weights for the same function."""
        samples = draw_samples(data.validation, self.samples, self.seed).samples
        network = copy.deepcopy(state.network)
        groups, skipped = find_groups(network, samples)
        if not groups:
            raise ValueError(
                "there is nothing to smooth: "
                + ("; ".join(skipped) or "no LayerNorm or Linear is read by Linears alone")
            )
        largest = largest_activations(network, samples, groups, progress)
        notes = []
        for node, group in groups.items():
            scales = smooth(network, group, largest[node], self.alpha)
            before, after = largest[node], largest[node] / scales
            notes.append(
                f"{group.weight.removesuffix('.weight')} smoothed: its largest channel was "
                f"{float(before.max() / before.mean()):.1f} times the mean, and is "
                f"{float(after.max() / after.mean()):.1f} times"
            )
        return replace(state, network=network, notes=(*state.notes, *notes, *skipped))
