"""Sweep a grid of activation pruning's thresholds: parameters removed and accuracy of each pair.

    network ─▶ moments on the first quarter of validation ─▶ for each pair of thresholds: prune
            ─▶ accuracy against dense on the other three quarters, before and after recovery

Accuracies are paired on the same samples, with 95 % intervals. The test split is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from variants.catalog.catalog import Interval
from variants.catalog.recipe import Project
from variants.compression.pruning.group import remove_units
from variants.compression.pruning.neurons import (
    RunningMoments,
    count_parameters,
    fold_means,
    measure_reader_moments,
    merge_by_group,
)
from variants.compression.techniques import resolve
from variants.compression.techniques.activation import ActivationPruning, find_neuron_groups
from variants.compression.techniques.recovery import Recover
from variants.measurement.evaluation import accuracy_difference
from variants.model.dataset import Split, TrainingData, rows
from variants.model.loading import load_model
from variants.model.training import Schedule, fit, predict

MEANS: Final = (0.0, 0.2, 0.25, 0.3, 0.4)
"""Thresholds of |mean|. 0 removes nothing: the control, dense itself trained like the others."""
DEVIATIONS: Final = (0.3, 0.4, 0.5, 0.6)
"""Thresholds of the standard deviation."""
STATISTICS_SHARE: Final = 0.25
"""Share of the validation samples that the statistics of neurons come from."""


@dataclass(frozen=True)
class PublishedResult:
    """A published result of this method, from one split and without an interval."""

    removed: float
    """Share of the parameters removed."""
    difference: float
    """Accuracy minus dense's, as a share."""


PUBLISHED_RESULTS: Final = (PublishedResult(0.62, -0.0008), PublishedResult(0.74, -0.005))
"""blog.dailydoseofds.com/p/activation-pruning-for-model-compression, without fine-tuning."""


@dataclass(frozen=True)
class SweepPoint:
    """The results of one pair of thresholds; intervals of accuracy minus dense's, as a share."""

    mean_below: float
    deviation_below: float
    kept: Mapping[str, int]
    """Number of neurons kept, by group."""
    removed: float
    """Share of the dense network's parameters removed."""
    pruned: Interval
    """After the removal, with the means of the removed neurons folded into biases."""
    recovered: Interval
    """After recovery."""


@dataclass(frozen=True)
class Sweep:
    """The grid's points, fewest parameters removed first, with the statistics of the neurons."""

    points: tuple[SweepPoint, ...]
    moments: Mapping[str, RunningMoments]
    recovery: Schedule
    dense_parameters: int
    statistics_samples: int
    accuracy_samples: int

    def least_removed(self, removed: float) -> SweepPoint | None:
        """Return the point that removes the least among those that remove at least this share.

        The choice does not depend on accuracy, so its interval needs no correction for selection.
        """
        return next((point for point in self.points if point.removed >= removed), None)


def sweep(
    network: nn.Module,
    data: TrainingData,
    progress: Progress,
    *,
    recovery: Schedule,
    means: Sequence[float] = MEANS,
    deviations: Sequence[float] = DEVIATIONS,
) -> Sweep:
    """Measure every pair of thresholds. Pairs that remove the same neurons are measured once.

    Raises `ValueError` if no neurons can be removed from a network of this structure.
    """
    validation = data.validation
    boundary = int(len(validation) * STATISTICS_SHARE)
    held_out = validation.part(boundary, len(validation))
    statistics = rows(validation.samples, slice(0, boundary))
    groups = find_neuron_groups(network, statistics).groups
    module_moments = measure_reader_moments(network, groups, statistics, progress)
    moments = merge_by_group(groups, module_moments)
    dense = predict(network, held_out.samples).numpy()

    pairs = _distinct(means, deviations, moments)
    points = []
    for mean_below, deviation_below, kept in progress.track(pairs, description="thresholds"):
        folded, _ = fold_means(network, groups, kept, module_moments)
        pruned = remove_units(folded, groups, kept)
        difference = _difference(pruned, dense, held_out)
        fit(pruned, data.train, recovery, _SILENT)
        points.append(
            SweepPoint(
                mean_below=mean_below,
                deviation_below=deviation_below,
                kept={name: int(keep.sum()) for name, keep in kept.items()},
                removed=1 - count_parameters(pruned) / count_parameters(network),
                pruned=difference,
                recovered=_difference(pruned, dense, held_out),
            )
        )
    return Sweep(
        points=tuple(sorted(points, key=lambda point: point.removed)),
        moments=moments,
        recovery=recovery,
        dense_parameters=count_parameters(network),
        statistics_samples=boundary,
        accuracy_samples=len(held_out),
    )


def run_sweep(
    project_file: Path,
    progress: Progress,
    *,
    means: Sequence[float] = MEANS,
    deviations: Sequence[float] = DEVIATIONS,
) -> Sweep:
    """Sweep a project's model, with the recovery of its first recipe with activation pruning.

    Raises `ValueError` if the project's model cannot be loaded.
    """
    project = Project.load(project_file)
    loaded = load_model(project.model)
    return sweep(
        loaded.network,
        loaded.datasets.training_data,
        progress,
        means=means,
        deviations=deviations,
        recovery=_recovery(project),
    )


_SILENT: Final = Progress(disable=True)


def _distinct(
    means: Sequence[float], deviations: Sequence[float], moments: Mapping[str, RunningMoments]
) -> list[tuple[float, float, dict[str, NDArray[np.bool_]]]]:
    measured = set()
    pairs = []
    for mean, deviation in product(means, deviations):
        pruning = ActivationPruning(mean_below=mean, deviation_below=deviation)
        kept = pruning.choose(moments)
        chosen = b"".join(keep.tobytes() for keep in kept.values())
        if chosen not in measured:
            measured.add(chosen)
            pairs.append((mean, deviation, kept))
    return pairs


def _difference(network: nn.Module, dense: NDArray[np.int64], split: Split) -> Interval:
    return accuracy_difference(predict(network, split.samples).numpy(), dense, split.labels)


def _recovery(project: Project) -> Schedule:
    for recipe in project.recipes.values():
        techniques = [resolve(step) for step in recipe]
        if any(isinstance(technique, ActivationPruning) for technique in techniques):
            for technique in techniques:
                if isinstance(technique, Recover):
                    return technique
    return Schedule()
