"""SparseGPT: removes weights column by column, and updates the others to compensate.

    X of the layer ─▶ Hessian X^T X ─▶ Cholesky factor of its inverse ─▶ sweep, left to right

Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1. It minimizes the change of a layer's
outputs on the given samples, without labels and without training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    count_groups,
    to_matrix,
    to_weight,
    unmasked_weights,
)
from variants.compression.sparsity.statistics import count_calls, measure_hessian
from variants.model.dataset import Samples

BLOCK: Final = 128
"""Number of columns whose updates of the columns to the right are applied as one product."""
DAMPING: Final = 0.01
"""Added to the diagonal of the Hessian, as a share of its mean: inputs can be dependent."""

Keep: TypeAlias = Callable[[Tensor], Tensor]
"""Maps scores, FP64 `[rows, width]`, -inf where masked already, to a mask, BOOL of that shape."""


def reconstruct(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    masks: Mapping[str, Tensor],
    keep: Mapping[str, Keep],
    width: int,
    samples: Samples,
    progress: Progress,
) -> dict[str, Tensor]:
    """Remove weights of the network in place; return the kept ones, BOOL `[out, columns]` by layer.

    The layers are pruned in the order of their calls, each on inputs that have passed through the
    layers already pruned. That takes one pass per layer, which ends at that layer. `keep` is by
    layer, and is applied to `width` columns at a time. Layers that are never called (see
    `count_calls`) are not changed and are missing in the result.
    """
    calls = count_calls(network, layers, samples)
    unmasked = unmasked_weights(layers, masks)
    kept = {}
    for name in progress.track(calls, description="SparseGPT"):
        layer = layers[name]
        hessians = measure_hessian(network, layer, calls[name], samples, progress)
        weight = to_matrix(layer.weight.detach())
        groups = count_groups(layer)
        parts = [
            sweep(rows, hessian, keep[name], width, allowed_rows)
            for rows, hessian, allowed_rows in zip(
                weight.chunk(groups), hessians, unmasked[name].chunk(groups), strict=True
            )
        ]
        with torch.no_grad():
            layer.weight.copy_(to_weight(torch.cat([part[0] for part in parts]), layer))
        kept[name] = torch.cat([part[1] for part in parts])
    return kept


def sweep(
    weight: Tensor,
    hessian: Tensor,
    keep: Keep,
    width: int,
    unmasked: Tensor | None = None,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """Return the updated weight and the mask, BOOL, both `[rows, columns]`.

    `hessian` is FP64 `[columns, columns]` of any scale. Every `width` columns, `keep` selects among
    the next `width` by w^2 / d^2, the error of removing each (d: the diagonal of the Cholesky
    factor), after the errors of all columns to the left have been compensated. `unmasked`, BOOL, is
    False where a weight is masked already.
    """
    upper = _inverse_factor(hessian, damping)
    diagonal = upper.diagonal()
    # Weights of an input that is always zero score 0, independently of the damping.
    unit = diagonal.masked_fill(hessian.diagonal() == 0, torch.inf)
    updated = weight.double().T.contiguous()  # [columns, rows]: columns are contiguous
    unmasked = torch.ones_like(weight, dtype=torch.bool) if unmasked is None else unmasked
    mask = torch.empty_like(unmasked)
    columns = weight.shape[1]
    block = width * max(1, BLOCK // width)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(stop - start, len(weight), dtype=torch.float64)
        for column in range(start, stop):
            if (column - start) % width == 0:
                part = slice(column, min(column + width, stop))
                scores = (updated[part].T / unit[part]).square()
                mask[:, part] = keep(scores.masked_fill(~unmasked[:, part], -torch.inf))
            kept = mask[:, column]
            error = updated[column].masked_fill(kept, 0.0) / diagonal[column]
            updated[column:stop].addr_(upper[column, column:stop], error, alpha=-1)
            updated[column].masked_fill_(~kept, 0.0)
            errors[column - start] = error
        updated[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return updated.T.to(weight.dtype).contiguous(), mask


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian.

    Row i, divided by its diagonal element, holds the optimal updates of the weights to the right of
    weight i when weight i is removed.
    """
    mean = float(hessian.diagonal().mean())
    damped = hessian + torch.eye(len(hessian), dtype=hessian.dtype) * (
        damping * mean if mean else 1.0
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
