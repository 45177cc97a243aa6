"""Remove hidden neurons that are always nearly silent: small mean and small deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import Progress

from variants.dataset import Material
from variants.neurons import Moments, fold_means, measure_neurons, remove_neurons
from variants.record import Record
from variants.workpiece import Stage, Workpiece


class ActivationPruning(Record):
    """Removes each hidden neuron whose |mean| and deviation are both below a threshold.

    Both are of the neuron's output after its activation, over the whole validation split (labels
    unused). Layers become physically smaller; one with no neuron left keeps its liveliest. With
    `fold_means` the removed neurons' average contribution moves into the next layer's biases.
    """

    kind: ClassVar[str] = "activation-pruning"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    mean_below: float = Field(ge=0)
    deviation_below: float = Field(ge=0)
    fold_means: bool = True

    def apply(self, workpiece: Workpiece, material: Material, progress: Progress) -> Workpiece:
        """Return the workpiece with a smaller network."""
        moments = measure_neurons(workpiece.network, material.validation.samples, progress)
        kept = self.choose(moments)
        network = workpiece.network
        if self.fold_means:
            network = fold_means(network, kept, moments)
        note = "; ".join(f"layer {name}: {k.sum()} of {k.size} neurons" for name, k in kept.items())
        return replace(
            workpiece,
            network=remove_neurons(network, kept),
            notes=(*workpiece.notes, f"kept {note}"),
        )

    def choose(self, moments: Mapping[str, Moments]) -> dict[str, NDArray[np.bool_]]:
        """Say for each layer which neurons stay: BOOL `[neurons]`, at least one True."""
        return {name: self._stays(layer) for name, layer in moments.items()}

    def _stays(self, moments: Moments) -> NDArray[np.bool_]:
        mean, deviation = np.abs(moments.mean), moments.deviation
        stays = (mean >= self.mean_below) | (deviation >= self.deviation_below)
        if not stays.any():
            stays[np.argmax(mean + deviation)] = True
        return stays
