"""SparseGPT: removes weights column by column and lets the others make up for them.

    X of the layer ─▶ Hessian X^T X ─▶ Cholesky factor of its inverse ─▶ sweep, left to right

Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1. It keeps what a layer says on the
calibration samples as close as it can to what it said, without labels and without training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    allowed_weights,
    count_groups,
    to_matrix,
    to_weight,
)
from variants.compression.sparsity.statistics import count_calls, measure_hessian
from variants.model.dataset import Samples

BLOCK: Final = 128
"""Columns whose updates of everything further right are gathered into one product."""
DAMPING: Final = 0.01
"""Added to the Hessian's diagonal, as a share of its mean: inputs may be constant or dependent."""

Keep: TypeAlias = Callable[[Tensor], Tensor]
"""Scores FP64 `[rows, width]`, -inf for what is masked already, to the mask BOOL of that shape."""


def reconstruct(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    masks: Mapping[str, Tensor],
    keep: Mapping[str, Keep],
    width: int,
    samples: Samples,
    progress: Progress,
) -> dict[str, Tensor]:
    """Remove weights of the network in place; return what stays, BOOL `[out, columns]` by layer.

    Sequential: the layers in the order in which they are called, and each learns from what reaches
    it through the layers already pruned. That is one pass for each layer, as far as that layer.
    `keep` is by layer.
    Layers that are never called (see `count_calls`) are left as they are and are missing.
    """
    calls = count_calls(network, layers, samples)
    allowed = allowed_weights(layers, masks)
    kept = {}
    for name in progress.track(calls, description="SparseGPT"):
        layer = layers[name]
        hessians = measure_hessian(network, layer, calls[name], samples, progress)
        weight = to_matrix(layer.weight.detach())
        groups = count_groups(layer)
        parts = [
            sweep(rows, hessian, keep[name], width, free)
            for rows, hessian, free in zip(
                weight.chunk(groups), hessians, allowed[name].chunk(groups), strict=True
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
    allowed: Tensor | None = None,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """Return the new weight and the mask, BOOL, both `[rows, columns]`.

    `hessian` is FP64 `[columns, columns]` of any scale. Every `width` columns, `keep` decides about
    the next ones by w^2 / d^2, the error that removing each would leave (d: the diagonal of the
    Cholesky factor), after everything further left has been made up for. `allowed`, BOOL, is False
    where a weight is masked already.
    """
    upper = _inverse_factor(hessian, damping)
    diagonal = upper.diagonal()
    # An input that was always zero needs none of its weights, whatever the damping makes of it.
    unit = diagonal.masked_fill(hessian.diagonal() == 0, torch.inf)
    updated = weight.double().T.contiguous()  # [columns, rows]: a column's numbers side by side
    allowed = torch.ones_like(weight, dtype=torch.bool) if allowed is None else allowed
    mask = torch.empty_like(allowed)
    columns = weight.shape[1]
    block = width * max(1, BLOCK // width)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(stop - start, len(weight), dtype=torch.float64)
        for column in range(start, stop):
            if (column - start) % width == 0:
                part = slice(column, min(column + width, stop))
                scores = (updated[part].T / unit[part]).square()
                mask[:, part] = keep(scores.masked_fill(~allowed[:, part], -torch.inf))
            stays = mask[:, column]
            error = updated[column].masked_fill(stays, 0.0) / diagonal[column]
            updated[column:stop].addr_(upper[column, column:stop], error, alpha=-1)
            updated[column].masked_fill_(~stays, 0.0)
            errors[column - start] = error
        updated[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return updated.T.to(weight.dtype).contiguous(), mask


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse.

    Row i of it, over its diagonal, is how the weights right of i best make up for weight i.
    """
    mean = float(hessian.diagonal().mean())
    damped = hessian + torch.eye(len(hessian), dtype=hessian.dtype) * (
        damping * mean if mean else 1.0
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
