"""Structured pruning: neurons, channels and attention heads are removed, layers become smaller."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from rich.progress import Progress
from torch import nn

from variants.compression.pruning.graph import UnitGroups, find_unit_groups
from variants.compression.pruning.group import Group, ParameterCounter, remove_units, update_groups
from variants.compression.pruning.score import SAMPLES, Criterion, score
from variants.compression.pruning.selection import Limits, Scope, choose
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.ramp import BetweenRounds, ramp
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage
from variants.model.training import fit


class Structured(Technique):
    """Removes the units that matter least until `share` of the network's parameters is gone.

    Units that only go together are found by torch-pruning's dependency graph (Fang et al. 2023,
    arXiv:2301.12900), and each group of them is proven on samples before it is touched. With
    `rounds` the share grows by a cubic ramp, fast at first (Zhu and Gupta 2017, arXiv:1710.01878,
    section 3), with new scores in each round, and `recover` between them. Even without recovery
    rounds help the scores by gradients much, since those only know small changes. Inputs and
    outputs of the network stay as they are.
    """

    kind: ClassVar[str] = "structured"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    share: float = Field(gt=0, lt=1)
    """Of the parameters that the network has when the step begins."""
    criterion: Criterion = "taylor"
    scope: Scope = "global"
    """Scores compared over the whole network, or the same ratio of units from each group."""
    max_ratio: float = Field(default=0.95, gt=0, le=1)
    """Largest share of the units of any group that may go."""
    round_to: int = Field(default=1, ge=1)
    """Neurons and channels that stay are a multiple of this in each group that loses some."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of names of layers whose outputs stay whole."""
    heads: bool = True
    """Whether whole attention heads go too."""
    through_norms: bool = False
    """Whether channels that a LayerNorm runs over may go: those which stay then change as well."""
    samples: int = Field(default=SAMPLES, ge=1)
    """How many validation samples, with labels, tell activations and gradients."""
    rounds: int = Field(default=1, ge=1)
    recover: BetweenRounds = None
    """Training between rounds; none after the last: that is a step of its own."""
    seed: int = 0

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a smaller network.

        Raises `ValueError` if so many parameters cannot be removed, and says how many can.
        """
        unit_groups = self._find_groups(state.network, data)
        calibration = draw_samples(data.validation, self.samples, self.seed)
        network = state.network
        total = ParameterCounter(network, ()).total
        sizes = {group.name: group.size for group in unit_groups.groups}
        min_units = {
            n: math.ceil(round(size * (1 - self.max_ratio), 6)) for n, size in sizes.items()
        }
        limits = Limits(self.round_to, min_units)
        groups: Sequence[Group] = unit_groups.groups
        for done in range(1, self.rounds + 1):
            gone = self.share * ramp(done, self.rounds)
            counter = ParameterCounter(network, groups)
            share = 1 - (1 - gone) * total / counter.total
            if share > 0:
                scores = score(network, groups, calibration, self.criterion, self.seed, progress)
                kept = choose(groups, scores, counter, share=share, scope=self.scope, limits=limits)
                network = remove_units(network, groups, kept)
                groups = update_groups(groups, kept)
            if self.recover is not None and done < self.rounds:
                network = copy.deepcopy(network)
                label = f"recovery {done} of {self.rounds - 1}"
                fit(network, data.train, self.recover, progress, label=label)
        left = ParameterCounter(network, ()).total
        notes = [f"kept {left:,} of {total:,} parameters, {1 - left / total:.1%} gone"]
        notes += [f"{g.name}: {g.size} of {sizes[g.name]} {g.kind}" for g in groups]
        return replace(
            state,
            network=network,
            notes=(*state.notes, "; ".join(notes), *unit_groups.notes),
        )

    def _find_groups(self, network: nn.Module, data: TrainingData) -> UnitGroups:
        found = find_unit_groups(network, data.validation.samples)
        groups, notes = [], list(found.notes)
        for group in found.without(self.exclude).groups:
            if group.is_normalized and not self.through_norms:
                notes.append(f"{group.name} left alone: a LayerNorm runs over it (through_norms)")
            elif self.heads or group.kind != "heads":
                groups.append(group)
        if not groups:
            raise ValueError(f"no units can be removed: {'; '.join(notes) or 'nothing is hidden'}")
        return UnitGroups(tuple(groups), tuple(notes))
