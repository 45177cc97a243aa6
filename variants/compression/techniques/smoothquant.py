"""SmoothQuant: moves activation outliers into the weights, so that `int8` loses less accuracy."""

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
    """Divides activations by a scale per channel, and multiplies the layers that read them by it.

    Xiao et al. 2022 (arXiv:2211.10438). The network computes the same function, up to rounding.
    Place it before `int8`. It applies only where the change is exact: from a LayerNorm or a Linear
    to Linears that are its only readers, with nothing in between, a ReLU, or an attention that
    mixes tokens (from `value` to `output`). The notes name the LayerNorms that are skipped, for
    example those that feed a residual addition.
    """

    kind: ClassVar[str] = "smoothquant"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.FREE
    keeps_outputs: ClassVar[bool] = True

    alpha: float = Field(default=0.5, ge=0, le=1)
    """Migration strength: 0 leaves the outliers in the activations, 1 moves them to the weights."""
    samples: int = Field(default=512, ge=1)
    """Number of validation samples on which the largest activations are measured."""
    seed: int = 0
    """Seed of the choice of samples."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with rescaled weights.

        Raises `ValueError` if no layer can be smoothed.
        """
        samples = draw_samples(data.validation, self.samples, self.seed).samples
        network = copy.deepcopy(state.network)
        groups, skipped = find_groups(network, samples)
        if not groups:
            raise ValueError(
                "no layer can be smoothed: "
                + ("; ".join(skipped) or "there is no LayerNorm or Linear that only Linears read")
            )
        largest = largest_activations(network, samples, groups, progress)
        notes = []
        for node, group in groups.items():
            scales = smooth(network, group, largest[node], self.alpha)
            before, after = largest[node], largest[node] / scales
            notes.append(
                f"{group.weight.removesuffix('.weight')} smoothed: its largest channel was "
                f"{float(before.max() / before.mean()):.1f} times the mean and is now "
                f"{float(after.max() / after.mean()):.1f} times the mean"
            )
        return replace(state, network=network, notes=(*state.notes, *notes, *skipped))
