"""An order of columns in which an N:M mask keeps more: which columns share a group is free.

Pool and Yu 2021, "Channel Permutations for N:M Sparsity" (NeurIPS 2021): swaps of two columns of
different groups, each taken if it raises what is kept. Here all groups are paired at random and
the best swap of every pair is made, again and again, so the sum kept never falls.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from variants.runtime.patterns import keep_n_of_m

PAIRINGS: Final = 300
"""How often groups are paired at most; in layers of millions of weights less often, see `WORK`."""
WORK: Final = 2**30
"""How many numbers are compared for one layer, about: some ten seconds on one core."""
PATIENCE: Final = 15
"""After how many pairings without a swap the order is taken as good."""
_NUMBERS_AT_ONCE = 2**23
_LEAST_GAIN = 1e-9
"""As a share of all scores: below it, a gain is rounding."""


def retained(scores: Tensor, n: int, m: int) -> float:
    """Return the sum of the scores `[rows, columns]` that an N:M mask keeps."""
    return float(scores[keep_n_of_m(scores, n, m)].sum(dtype=torch.float64))


def find_order(scores: Tensor, n: int, m: int, seed: int) -> Tensor:
    """Return an order of the columns of `scores` `[rows, columns]` (at least 0), INT64 `[columns]`.

    `scores[:, order]` retains as much as `scores` or more. Columns must be a multiple of `m`.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(scores.shape[1])
    groups = len(order) // m
    min_gain = _LEAST_GAIN * float(scores.sum(dtype=torch.float64))
    since = 0
    pairings = min(PAIRINGS, max(PATIENCE, WORK // max(1, scores.numel() * m)))
    for _ in range(pairings if groups > 1 else 0):
        pairs = torch.randperm(groups, generator=generator)[: groups // 2 * 2].reshape(2, -1)
        slots = pairs[..., None] * m + torch.arange(m)  # [2, pairs, m]: places in the order
        gains, which = _gains(scores, order[slots], n).flatten(1).max(dim=1)
        better = gains > min_gain
        ours = slots[0].gather(1, (which // m)[:, None])[better, 0]
        theirs = slots[1].gather(1, (which % m)[:, None])[better, 0]
        order[ours], order[theirs] = order[theirs], order[ours]
        since = 0 if len(ours) else since + 1
        if since == PATIENCE:
            break
    return order


def _gains(scores: Tensor, columns: Tensor, n: int) -> Tensor:
    """What is won by swapping column i of a group with column j of its partner, `[pairs, m, m]`.

    `columns` `[2, pairs, m]` are the columns of the groups.
    """
    _, pairs, m = columns.shape
    gains = torch.zeros(pairs, m, m, dtype=torch.float64)
    for part in torch.split(scores, max(1, _NUMBERS_AT_ONCE // (pairs * m * m))):
        ours, theirs = part[:, columns[0]], part[:, columns[1]]  # [rows, pairs, m]
        gains += _won(ours, theirs, n) + _won(theirs, ours, n).mT
    return gains


def _won(group: Tensor, other: Tensor, n: int) -> Tensor:
    """What a group keeps more once its column i is the other's column j, `[pairs, m, m]`."""
    kept, spare = _ranked(group, n)
    # Without column i the group keeps n - 1 others for sure, and the newcomer if it beats `last`.
    last = torch.where(group >= kept, spare, kept)
    gone = torch.maximum(group, kept).sum(dim=0, dtype=torch.float64)
    come = torch.maximum(last[..., :, None], other[..., None, :]).sum(dim=0, dtype=torch.float64)
    return come - gone[..., None]


def _ranked(group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n-th largest of each group (the last kept) and the next one, each `[rows, pairs, 1]`.

    By compare and exchange over whole tensors: sorting millions of groups of 4 one by one is slow.
    """
    places = list(group.unbind(-1))
    for first in range(n + 1):
        for place in range(len(places) - 1, first, -1):
            one, other = places[place - 1], places[place]
            places[place - 1], places[place] = one.maximum(other), one.minimum(other)
    return places[n - 1][..., None], places[n][..., None]
