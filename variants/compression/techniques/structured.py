"""Structured pruning: removes neurons, channels and attention heads, so that layers shrink."""

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
from variants.compression.pruning.score import DEFAULT_SAMPLES, Criterion, score
from variants.compression.pruning.selection import DEFAULT_MAX_RATIO, Limits, Scope, choose
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.ramp import BetweenRounds, ramp
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage
from variants.model.training import fit


class Structured(Technique):
    """Removes the least important units until `share` of the network's parameters is removed.

    Units that must be removed together are found with torch-pruning's dependency graph (Fang et al.
    2023, arXiv:2301.12900), and each group is verified on samples before it is used. With `rounds`
    above 1 the share grows along a cubic ramp, fastest at first (Zhu and Gupta 2017,
    arXiv:1710.01878, section 3); each round computes new scores, and `recover` trains in between.
    Rounds improve gradient scores even without training, because gradients only predict small
    changes. Inputs and outputs of the network are not pruned.
    """

    kind: ClassVar[str] = "structured"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    share: float = Field(gt=0, lt=1)
    """Share of the network's parameters to remove, counted when the step begins."""
    criterion: Criterion = "taylor"
    """Score that ranks units; see `variants.compression.pruning.score`."""
    scope: Scope = "global"
    """`global` compares scores across groups; `layer` removes the same ratio from each group."""
    max_ratio: float = Field(default=DEFAULT_MAX_RATIO, gt=0, le=1)
    """Largest share of the units of one group that may be removed."""
    round_to: int = Field(default=1, ge=1)
    """In each pruned group the number of remaining neurons or channels is a multiple of this."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names whose outputs are not pruned, such as `blocks.0.*`."""
    heads: bool = True
    """Whether to remove whole attention heads, too."""
    through_norms: bool = False
    """Whether to remove channels that a LayerNorm normalizes, which changes the other channels."""
    samples: int = Field(default=DEFAULT_SAMPLES, ge=1)
    """Number of labelled validation samples on which activations and gradients are measured."""
    rounds: int = Field(default=1, ge=1)
    """Number of pruning rounds."""
    recover: BetweenRounds = None
    """Training between rounds; to train after the last round, add a step `recover`."""
    seed: int = 0
    """Seed of the choice of samples, and of the scores of `random`."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a smaller network.

        Raises `ValueError` if `share` cannot be reached, with the share that can be removed.
        """
        unit_groups = self._find_groups(state.network, data)
        scoring = draw_samples(data.validation, self.samples, self.seed)
        network = state.network
        total = ParameterCounter(network, ()).total
        sizes = {group.name: group.size for group in unit_groups.groups}
        min_units = {
            n: math.ceil(round(size * (1 - self.max_ratio), 6)) for n, size in sizes.items()
        }
        limits = Limits(self.round_to, min_units)
        groups: Sequence[Group] = unit_groups.groups
        for done in range(1, self.rounds + 1):
            removed = self.share * ramp(done, self.rounds)
            counter = ParameterCounter(network, groups)
            share = 1 - (1 - removed) * total / counter.total
            if share > 0:
                scores = score(network, groups, scoring, self.criterion, self.seed, progress)
                kept = choose(groups, scores, counter, share=share, scope=self.scope, limits=limits)
                network = remove_units(network, groups, kept)
                groups = update_groups(groups, kept)
            if self.recover is not None and done < self.rounds:
                network = copy.deepcopy(network)
                label = f"recovery {done} of {self.rounds - 1}"
                fit(network, data.train, self.recover, progress, label=label)
        remaining = ParameterCounter(network, ()).total
        notes = [f"kept {remaining:,} of {total:,} parameters, {1 - remaining / total:.1%} removed"]
        notes += [f"{g.name}: {g.size} of {sizes[g.name]} {g.kind}" for g in groups]
        return replace(
            state,
            network=network,
            notes=(*state.notes, "; ".join(notes), *unit_groups.notes),
        )

    def _find_groups(self, network: nn.Module, data: TrainingData) -> UnitGroups:
        unit_groups = find_unit_groups(network, data.validation.samples)
        groups, notes = [], list(unit_groups.notes)
        for group in unit_groups.exclude(self.exclude).groups:
            if group.is_normalized and not self.through_norms:
                notes.append(
                    f"{group.name} is not pruned: a LayerNorm normalizes it (see through_norms)"
                )
            elif self.heads or group.kind != "heads":
                groups.append(group)
        if not groups:
            raise ValueError(f"no units can be removed: {'; '.join(notes) or 'no hidden layers'}")
        return UnitGroups(tuple(groups), tuple(notes))
