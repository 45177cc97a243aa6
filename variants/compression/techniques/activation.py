"""Remove hidden neurons that are always nearly silent: small mean and small deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import nn

from variants.compression.pruning.graph import UnitGroups, find_unit_groups
from variants.compression.pruning.group import ParameterCounter, remove_units
from variants.compression.pruning.neurons import (
    RunningMoments,
    fold_means,
    measure_reader_moments,
    merge_by_group,
)
from variants.compression.pruning.selection import Limits, choose
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Samples, TrainingData
from variants.model.state import CompressionState, Stage


class ActivationPruning(Technique):
    """Removes each hidden neuron or channel whose |mean| and deviation are below a threshold.

    Both are of what other layers read of it, so after its activation, over the whole validation
    split (labels unused). Give both thresholds; or `share`, and one threshold for both is raised
    until this share of the network's parameters is gone. Layers become physically smaller; one
    with no neuron left keeps its liveliest. With `fold_means` the removed neurons' average
    contribution moves into the next layer's biases, where that is exact.
    """

    kind: ClassVar[str] = "activation-pruning"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    mean_below: float | None = Field(default=None, ge=0)
    deviation_below: float | None = Field(default=None, ge=0)
    share: float | None = Field(default=None, gt=0, lt=1, validate_default=True)
    """Of the parameters that the network has when the step begins."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of names of layers whose neurons stay."""
    fold_means: bool = True

    @field_validator("share")
    @classmethod
    def _one_way(cls, share: float | None, given: ValidationInfo) -> float | None:
        names = ("mean_below", "deviation_below")
        thresholds = sum(given.data.get(name) is not None for name in names)
        if thresholds != (2 if share is None else 0):
            raise ValueError("give either mean_below and deviation_below, or share")
        return share

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a smaller network.

        Raises `ValueError` if no neurons can go, or not so many parameters.
        """
        network, samples = state.network, data.validation.samples
        unit_groups = find_neuron_groups(network, samples).without(self.exclude)
        groups = unit_groups.groups
        heard = measure_reader_moments(network, groups, samples, progress)
        moments = merge_by_group(groups, heard)
        if self.share is None:
            kept = self.choose(moments)
        else:
            kept = choose(
                groups,
                {name: np.maximum(abs(m.mean), m.deviation) for name, m in moments.items()},
                ParameterCounter(network, groups),
                share=self.share,
                scope="global",
                limits=Limits(),
            )
        notes = unit_groups.notes
        if self.fold_means:
            network, unfolded = fold_means(network, groups, kept, heard)
            notes += unfolded
        note = "; ".join(f"layer {name}: {k.sum()} of {k.size} neurons" for name, k in kept.items())
        return replace(
            state,
            network=remove_units(network, groups, kept),
            notes=(*state.notes, f"kept {note}", *notes),
        )

    def choose(self, moments: Mapping[str, RunningMoments]) -> dict[str, NDArray[np.bool_]]:
        """Say by the thresholds which neurons of each group stay: BOOL, at least one True."""
        return {name: self._keep_mask(layer) for name, layer in moments.items()}

    def _keep_mask(self, moments: RunningMoments) -> NDArray[np.bool_]:
        if self.mean_below is None or self.deviation_below is None:
            raise ValueError("there are no thresholds to choose by, only a share")
        mean, deviation = np.abs(moments.mean), moments.deviation
        stays = (mean >= self.mean_below) | (deviation >= self.deviation_below)
        if not stays.any():
            stays[np.argmax(mean + deviation)] = True
        return stays


def find_neuron_groups(network: nn.Module, samples: Samples) -> UnitGroups:
    """Return the groups of neurons and channels whose silence changes nothing else.

    Attention heads and channels that a LayerNorm runs over are not among them. Raises `ValueError`
    with the reasons if there are none.
    """
    found = find_unit_groups(network, samples)
    notes = list(found.notes)
    notes += [
        f"{g.name} left alone: a LayerNorm runs over it" for g in found.groups if g.is_normalized
    ]
    groups = tuple(g for g in found.groups if g.kind == "neurons" and not g.is_normalized)
    if not groups:
        raise ValueError(f"there are no hidden neurons: {'; '.join(notes) or 'nothing is hidden'}")
    return UnitGroups(groups, tuple(notes))
