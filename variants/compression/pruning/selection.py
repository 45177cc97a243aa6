"""Which units go: those with the lowest scores, just so many that a share of parameters is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.compression.pruning.group import Group, ParameterCounter

Scores: TypeAlias = Mapping[str, NDArray[np.float64]]
"""By group, `[units]`: the lower, the less is lost without it."""
Scope: TypeAlias = Literal["global", "layer"]


@dataclass(frozen=True)
class Limits:
    """What may not be exceeded, however low the scores."""

    round_to: int = 1
    """Neurons that stay in a group of which some go are a multiple of this; heads are not asked."""
    min_units: Mapping[str, int] = field(default_factory=dict)
    """By group, how many units stay at least; one stays in any case."""

    def left(self, group: Group, going: int) -> int:
        """Return how many units stay if `going` are wanted gone."""
        step = self.round_to if group.kind == "neurons" else 1
        stay = max(1, self.min_units.get(group.name, 1), group.size - going)
        return min(group.size, -(-stay // step) * step)


def choose(
    groups: Sequence[Group],
    scores: Scores,
    counter: ParameterCounter,
    *,
    share: float,
    scope: Scope,
    limits: Limits,
) -> dict[str, NDArray[np.bool_]]:
    """Return which units stay: the fewest go with which `share` of the parameters is gone.

    `global` compares the scores of all groups; `layer` takes the same ratio from each. Of equal
    scores the first unit goes first. Raises `ValueError` if the limits leave more than that.
    """
    order = {group.name: np.argsort(scores[group.name], kind="stable") for group in groups}
    levels = _levels(groups, scores, scope)

    def at(level: int) -> dict[str, NDArray[np.bool_]]:
        kept = {}
        for group in groups:
            stays = np.ones(group.size, dtype=bool)
            left = limits.left(group, levels[level][group.name])
            stays[order[group.name][: group.size - left]] = False
            kept[group.name] = stays
        return kept

    most = (1 - share) * counter.total
    low, high = 0, len(levels) - 1
    if counter.left(at(high)) > most:
        reached = 1 - counter.left(at(high)) / counter.total
        raise ValueError(
            f"{share:.1%} of the {counter.total:,} parameters cannot be removed, {reached:.1%} at "
            f"most: let more layers take part, or leave fewer units in each"
        )
    while low < high:
        middle = (low + high) // 2
        if counter.left(at(middle)) <= most:
            high = middle
        else:
            low = middle + 1
    return at(low)


def _levels(groups: Sequence[Group], scores: Scores, scope: Scope) -> list[dict[str, int]]:
    """Return how many units of each group go, from nothing to everything, step by step."""
    owners = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    worth = [_ranks(scores[g.name]) if scope == "layer" else scores[g.name] for g in groups]
    ranked = owners[np.argsort(np.concatenate(worth), kind="stable")]
    going = np.zeros((len(ranked) + 1, len(groups)), dtype=int)
    for number, owner in enumerate(ranked):
        going[number + 1] = going[number]
        going[number + 1, owner] += 1
    return [dict(zip([g.name for g in groups], map(int, row), strict=True)) for row in going]


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each unit's place among its group, from above 0 to 1 for the best."""
    places = np.empty(len(scores))
    places[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return places / len(scores)
