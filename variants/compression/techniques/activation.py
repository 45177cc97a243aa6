"""Activation pruning: removes neurons whose activations have a small mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import nn

from variants.catalog.parameter_rules import parameters_error
from variants.compression.pruning.graph import UnitGroups, find_unit_groups
from variants.compression.pruning.group import ParameterCounter, remove_units
from variants.compression.pruning.neurons import (
    RunningMoments,
    fold_means,
    measure_reader_moments,
    merge_by_group,
)
from variants.compression.pruning.selection import DEFAULT_MAX_RATIO, Limits, choose
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Samples, TrainingData
from variants.model.state import CompressionState, Stage


class ActivationPruning(Technique):
    """Removes each hidden neuron or channel whose |mean| and deviation are below a threshold.

    Mean and standard deviation are those of the values that other layers read, that is, after the
    activation function, over the whole validation split; labels are not used. Set both thresholds,
    or `share`: then one threshold for both is raised until this share of the parameters is removed.
    Layers become physically smaller. A layer that would lose every neuron keeps the one with the
    largest |mean| + deviation. The notes warn of a layer that keeps less than 5 % of its neurons.
    """

    kind: ClassVar[str] = "activation-pruning"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    mean_below: float | None = Field(default=None, ge=0)
    """Threshold of the absolute mean activation; needs `deviation_below`."""
    deviation_below: float | None = Field(default=None, ge=0)
    """Threshold of the standard deviation of the activation; needs `mean_below`."""
    share: float | None = Field(default=None, gt=0, lt=1, validate_default=True)
    """Share of the network's parameters to remove, counted when the step begins; excludes both
    thresholds."""
    round_to: int = Field(default=1, ge=1)
    """The number of remaining neurons or channels of a layer is a multiple of this. Sparse kernels
    need a multiple of 4, and use whole registers with 32."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names whose neurons are kept, such as `blocks.0.*`."""
    fold_means: bool = True
    """Whether to add the mean contribution of removed neurons to the next layer's biases, where
    that is exact."""

    @field_validator("share")
    @classmethod
    def _require_one_rule(cls, share: float | None, info: ValidationInfo) -> float | None:
        if error := parameters_error(cls.kind, info.data | {"share": share}):
            raise ValueError(error)
        return share

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a smaller network.

        Raises `ValueError` if there are no hidden neurons, or if `share` cannot be reached.
        """
        network, samples = state.network, data.validation.samples
        unit_groups = find_neuron_groups(network, samples).exclude(self.exclude)
        groups = unit_groups.groups
        reader_moments = measure_reader_moments(network, groups, samples, progress)
        moments = merge_by_group(groups, reader_moments)
        if self.share is None:
            kept = self.choose(moments)
        else:
            kept = choose(
                groups,
                {name: np.maximum(abs(m.mean), m.deviation) for name, m in moments.items()},
                ParameterCounter(network, groups),
                share=self.share,
                scope="global",
                limits=Limits(self.round_to),
            )
        notes = unit_groups.notes
        if self.fold_means:
            network, fold_notes = fold_means(network, groups, kept, reader_moments)
            notes += fold_notes
        notes += _few_left(kept)
        note = "; ".join(f"layer {name}: {k.sum()} of {k.size} neurons" for name, k in kept.items())
        return replace(
            state,
            network=remove_units(network, groups, kept),
            notes=(*state.notes, f"kept {note}", *notes),
        )

    def choose(self, moments: Mapping[str, RunningMoments]) -> dict[str, NDArray[np.bool_]]:
        """Apply the thresholds; return by group which neurons to keep, BOOL, at least one True."""
        return {name: self._keep_mask(layer) for name, layer in moments.items()}

    def _keep_mask(self, moments: RunningMoments) -> NDArray[np.bool_]:
        if self.mean_below is None or self.deviation_below is None:
            raise ValueError("choosing by thresholds needs mean_below and deviation_below")
        mean, deviation = np.abs(moments.mean), moments.deviation
        kept = (mean >= self.mean_below) | (deviation >= self.deviation_below)
        # Add the most active of the silent neurons up to the next multiple, at least one.
        size = min(len(kept), math.ceil(max(1, kept.sum()) / self.round_to) * self.round_to)
        order = np.lexsort((-(mean + deviation), ~kept))
        kept[order[:size]] = True
        return kept


def _few_left(kept: Mapping[str, NDArray[np.bool_]]) -> tuple[str, ...]:
    """Return a warning for each layer that keeps a smaller share than `structured` leaves."""
    return tuple(
        f"warning: layer {name} keeps only {mask.sum()} of {mask.size} neurons; lower the "
        f"thresholds or share, or exclude it"
        for name, mask in kept.items()
        if mask.sum() < mask.size * (1 - DEFAULT_MAX_RATIO)
    )


def find_neuron_groups(network: nn.Module, samples: Samples) -> UnitGroups:
    """Return the groups of neurons and channels that can be removed independently.

    Attention heads are left out, and so are channels that a LayerNorm normalizes, since their
    removal changes the other channels. Raises `ValueError` with the reasons if there are none.
    """
    unit_groups = find_unit_groups(network, samples)
    notes = list(unit_groups.notes)
    notes += [
        f"{g.name} is not pruned: a LayerNorm normalizes it"
        for g in unit_groups.groups
        if g.is_normalized
    ]
    groups = tuple(g for g in unit_groups.groups if g.kind == "neurons" and not g.is_normalized)
    if not groups:
        raise ValueError(
            f"there are no hidden neurons to prune: {'; '.join(notes) or 'no hidden layers'}"
        )
    return UnitGroups(groups, tuple(notes))
