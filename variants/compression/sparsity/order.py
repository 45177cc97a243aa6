"""Search for an order of columns in which an N:M mask keeps a larger sum of scores.

Pool and Yu 2021, "Channel Permutations for N:M Sparsity" (NeurIPS 2021), swap two columns of
different groups if the swap increases the kept sum. Here every pairing joins all groups at random
into pairs, and the best swap of each pair is made, so the kept sum never decreases.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from variants.runtime.patterns import keep_n_of_m

MAX_PAIRINGS: Final = 300
"""Largest number of pairings; fewer in layers of millions of weights, see `MAX_COMPARISONS`."""
MAX_COMPARISONS: Final = 2**30
"""Approximate number of values compared for one layer: about ten seconds on one core."""
MAX_IDLE_PAIRINGS: Final = 15
"""Number of consecutive pairings without a swap that ends the search."""
_MAX_COMPARED_VALUES = 2**23
"""Largest number of values in memory for one comparison."""
_MIN_RELATIVE_GAIN = 1e-9
"""Smallest gain of a swap as a share of the sum of scores; smaller ones are rounding errors."""


def retained(scores: Tensor, n: int, m: int) -> float:
    """Return the sum of the scores, `[rows, columns]`, that an N:M mask keeps."""
    return float(scores[keep_n_of_m(scores, n, m)].sum(dtype=torch.float64))


def find_order(scores: Tensor, n: int, m: int, seed: int) -> Tensor:
    """Return an order of the columns of `scores`, INT64 `[columns]`.

    `scores` is `[rows, columns]` and not negative; the number of columns must be a multiple of
    `m`. An N:M mask of `scores[:, order]` keeps at least the sum that it keeps of `scores`.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(scores.shape[1])
    groups = len(order) // m
    min_gain = _MIN_RELATIVE_GAIN * float(scores.sum(dtype=torch.float64))
    idle_pairings = 0
    pairings = min(
        MAX_PAIRINGS, max(MAX_IDLE_PAIRINGS, MAX_COMPARISONS // max(1, scores.numel() * m))
    )
    for _ in range(pairings if groups > 1 else 0):
        pairs = torch.randperm(groups, generator=generator)[: groups // 2 * 2].reshape(2, -1)
        slots = pairs[..., None] * m + torch.arange(m)  # [2, pairs, m]: positions in the order
        gains, swaps = _gains(scores, order[slots], n).flatten(1).max(dim=1)
        better = gains > min_gain
        slots_a = slots[0].gather(1, (swaps // m)[:, None])[better, 0]
        slots_b = slots[1].gather(1, (swaps % m)[:, None])[better, 0]
        order[slots_a], order[slots_b] = order[slots_b], order[slots_a]
        idle_pairings = 0 if len(slots_a) else idle_pairings + 1
        if idle_pairings == MAX_IDLE_PAIRINGS:
            break
    return order


def _gains(scores: Tensor, columns: Tensor, n: int) -> Tensor:
    """Return the gain of swapping column i of a group with column j of its partner.

    `columns`, `[2, pairs, m]`, are the columns of the paired groups; the gain is `[pairs, m, m]`.
    """
    _, pairs, m = columns.shape
    gains = torch.zeros(pairs, m, m, dtype=torch.float64)
    for part in torch.split(scores, max(1, _MAX_COMPARED_VALUES // (pairs * m * m))):
        scores_a, scores_b = part[:, columns[0]], part[:, columns[1]]  # [rows, pairs, m]
        gains += _swap_gain(scores_a, scores_b, n) + _swap_gain(scores_b, scores_a, n).mT
    return gains


def _swap_gain(group: Tensor, other: Tensor, n: int) -> Tensor:
    """Return the gain of a group from replacing its column i by column j of the other group."""
    kept, spare = _boundary_scores(group, n)
    # Without column i the group keeps n - 1 others, and the new column if it exceeds `threshold`.
    threshold = torch.where(group >= kept, spare, kept)
    before = torch.maximum(group, kept).sum(dim=0, dtype=torch.float64)
    after = torch.maximum(threshold[..., :, None], other[..., None, :]).sum(
        dim=0, dtype=torch.float64
    )
    return after - before[..., None]


def _boundary_scores(group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the n-th largest score of each group and the next one, each `[rows, pairs, 1]`.

    Compares and exchanges whole tensors, because sorting millions of groups of 4 is slow.
    """
    places = list(group.unbind(-1))
    for first in range(n + 1):
        for place in range(len(places) - 1, first, -1):
            left, right = places[place - 1], places[place]
            places[place - 1], places[place] = left.maximum(right), left.minimum(right)
    return places[n - 1][..., None], places[n][..., None]
