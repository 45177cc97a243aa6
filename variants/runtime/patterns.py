"""Which weights stay, given a score for each: the pattern of a mask.

Scores are `[rows, columns]`, larger is more important; a weight of score -inf never stays. Masks
are BOOL of that shape, True where the weight stays. Of equal scores the one further up stays, then
the one further left, so that a mask is decided by its scores alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def keep_share(scores: Tensor, removed: float) -> Tensor:
    """Remove the share `removed`, 0 to 1, of all weights of the matrix: those of lowest score.

    The best one stays in any case, here and below: nothing passes where all weights are gone.
    """
    return _keep_largest(scores.flatten(), removed).reshape(scores.shape)


def keep_share_of_rows(scores: Tensor, removed: float) -> Tensor:
    """Remove the share `removed` of each row's weights."""
    return _keep_largest(scores, removed)


def keep_share_of_all(scores: Mapping[str, Tensor], removed: float) -> dict[str, Tensor]:
    """Remove the share `removed` of the weights of all matrices, whichever they are in."""
    mask = _keep_largest(torch.cat([each.flatten() for each in scores.values()]), removed)
    parts = torch.split(mask, [each.numel() for each in scores.values()])
    return {
        name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)
    }


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the best `n` of every `m` consecutive columns of each row.

    Raises `ValueError` if the columns are no multiple of `m`.
    """
    if scores.ndim != 2 or scores.shape[1] % m:
        raise ValueError(
            f"{n}:{m} needs [rows, columns] with columns a multiple of {m}, "
            f"got {list(scores.shape)}"
        )
    return _mark(scores.reshape(len(scores), -1, m), n).flatten(1)


def _keep_largest(scores: Tensor, removed: float) -> Tensor:
    """Along the last dimension."""
    size = scores.shape[-1]
    return _mark(scores, max(1, size - round(removed * size)))


def _mark(scores: Tensor, kept: int) -> Tensor:
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :kept]
    best = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)
    return best & (scores != -torch.inf)
