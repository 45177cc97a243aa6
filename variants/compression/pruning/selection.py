"""Selection of units to prune: the lowest scores, until a share of the parameters is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.compression.pruning.group import Group, ParameterCounter

Scores: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Scores by group, `[units]`; units with low scores are removed first."""
Scope: TypeAlias = Literal["global", "layer"]

DEFAULT_MAX_RATIO: Final = 0.95
"""Share of a group's units whose removal is too much by default."""


@dataclass(frozen=True)
class Limits:
    """Limits on the selection that hold for any scores."""

    round_to: int = 1
    """The number of neurons kept in a pruned group is a multiple of this. Heads are exempt."""
    min_units: Mapping[str, int] = field(default_factory=dict)
    """Smallest number of units to keep by group; at least one is always kept."""

    def count_kept(self, group: Group, removed: int) -> int:
        """Return how many units are kept if `removed` units are to be removed."""
        step = self.round_to if group.kind == "neurons" else 1
        kept = max(1, self.min_units.get(group.name, 1), group.size - removed)
        return min(group.size, -(-kept // step) * step)


def choose(
    groups: Sequence[Group],
    scores: Scores,
    counter: ParameterCounter,
    *,
    share: float,
    scope: Scope,
    limits: Limits,
) -> dict[str, NDArray[np.bool_]]:
    """Return which units to keep, so that the fewest units remove `share` of the parameters.

    The scope `global` compares the scores of all groups; `layer` removes the same ratio from each.
    Of equal scores, the first unit is removed first. Raises `ValueError` if the limits prevent the
    removal of `share`.
    """
    order = {group.name: np.argsort(scores[group.name], kind="stable") for group in groups}
    levels = _levels(groups, scores, scope)

    def masks_at(level: int) -> dict[str, NDArray[np.bool_]]:
        kept = {}
        for group in groups:
            kept_units = np.ones(group.size, dtype=bool)
            size = limits.count_kept(group, levels[level][group.name])
            kept_units[order[group.name][: group.size - size]] = False
            kept[group.name] = kept_units
        return kept

    max_parameters = (1 - share) * counter.total
    low, high = 0, len(levels) - 1
    if counter.count_kept(masks_at(high)) > max_parameters:
        removable = 1 - counter.count_kept(masks_at(high)) / counter.total
        raise ValueError(
            f"cannot remove {share:.1%} of the {counter.total:,} parameters, only {removable:.1%}: "
            "exclude fewer layers, or allow fewer units in each"
        )
    while low < high:
        middle = (low + high) // 2
        if counter.count_kept(masks_at(middle)) <= max_parameters:
            high = middle
        else:
            low = middle + 1
    return masks_at(low)


def _levels(groups: Sequence[Group], scores: Scores, scope: Scope) -> list[dict[str, int]]:
    """Return the number of units to remove from each group, from none to all, one by one."""
    owners = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    scores_by_group = [
        _ranks(scores[g.name]) if scope == "layer" else scores[g.name] for g in groups
    ]
    ranked = owners[np.argsort(np.concatenate(scores_by_group), kind="stable")]
    removed = np.zeros((len(ranked) + 1, len(groups)), dtype=int)
    for number, owner in enumerate(ranked):
        removed[number + 1] = removed[number]
        removed[number + 1, owner] += 1
    return [dict(zip([g.name for g in groups], map(int, row), strict=True)) for row in removed]


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each unit in its group, above 0, and 1 for the highest score."""
    places = np.empty(len(scores))
    places[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return places / len(scores)
