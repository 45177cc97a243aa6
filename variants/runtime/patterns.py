"""Mask patterns: which weights to keep, given a score for each.

Scores are `[rows, columns]`; larger is more important, and weights with score -inf are never kept.
Masks are BOOL of the same shape, True where a weight is kept. Of equal scores the topmost, then the
leftmost is kept, so masks depend on the scores only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def keep_share(scores: Tensor, removed: float) -> Tensor:
    """Remove the share `removed`, 0 to 1, of the weights of a matrix, those with the lowest scores.

    The weight with the highest score is always kept, here and in the functions below, since a
    layer without weights passes no signal.
    """
    return _keep_largest(scores.flatten(), removed).reshape(scores.shape)


def keep_share_of_rows(scores: Tensor, removed: float) -> Tensor:
    """Remove the share `removed` of the weights of each row."""
    return _keep_largest(scores, removed)


def keep_share_of_all(scores: Mapping[str, Tensor], removed: float) -> dict[str, Tensor]:
    """Remove the share `removed` of the weights of all matrices together."""
    mask = _keep_largest(torch.cat([each.flatten() for each in scores.values()]), removed)
    parts = torch.split(mask, [each.numel() for each in scores.values()])
    return {
        name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)
    }


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the best `n` of every `m` consecutive columns of each row.

    Raises `ValueError` if the number of columns is not a multiple of `m`.
    """
    if scores.ndim != 2 or scores.shape[1] % m:
        raise ValueError(
            f"{n}:{m} needs [rows, columns] with columns a multiple of {m}, "
            f"got {list(scores.shape)}"
        )
    return _mark(scores.reshape(len(scores), -1, m), n).flatten(1)


def _keep_largest(scores: Tensor, removed: float) -> Tensor:
    """Keep the largest scores along the last dimension."""
    size = scores.shape[-1]
    return _mark(scores, max(1, size - round(removed * size)))


def _mark(scores: Tensor, kept: int) -> Tensor:
    """Return a mask of the `kept` largest finite scores along the last dimension."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :kept]
    best = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)
    return best & (scores != -torch.inf)
