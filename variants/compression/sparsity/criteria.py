"""How important each weight is: one score for each, by one of several criteria.

The calibration samples are passed once through the network as it is: unlike SparseGPT's sweep, no
score takes into account what is removed from the layers before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import SparsifiableLayer, allowed_weights, to_matrix
from variants.compression.sparsity.statistics import (
    measure_input_magnitudes,
    measure_weight_gradients,
)
from variants.model.dataset import Split

Criterion: TypeAlias = Literal[
    "magnitude", "gradient", "activation", "taylor", "random", "wanda", "sparsegpt"
]


def score(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    masks: Mapping[str, Tensor],
    criterion: Criterion,
    split: Split,
    seed: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """Return the scores of each layer's weights `[out, columns]`, larger is more important.

    * magnitude: |w|
    * gradient: |g|, averaged over batches of labelled samples; it does not know how much is cut
    * taylor: |w g|, averaged alike (Molchanov et al. 2019, arXiv:1906.10771, without the square,
      which changes no order in one batch)
    * activation: |w| times the mean |x| of the input it reads: how much it adds to its output
    * wanda: |w| times the L2 norm of the input it reads (Sun et al. 2023, arXiv:2306.11695, (1))
    * random: uniform, by `seed`: a control
    * sparsegpt: as wanda; its own scores exist only while weights are removed (see `sparsegpt`)

    Weights that `masks`, by parameter name, hold at zero score -inf. A layer whose inputs the
    criterion needs and that cannot be observed is missing.
    """
    allowed = allowed_weights(layers, masks)
    scores = _score(network, layers, criterion, split, seed, progress)
    return {n: each.masked_fill(~allowed[n], -torch.inf) for n, each in scores.items()}


def _score(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    criterion: Criterion,
    split: Split,
    seed: int,
    progress: Progress,
) -> dict[str, Tensor]:
    weights = {name: to_matrix(layer.weight.detach()) for name, layer in layers.items()}
    match criterion:
        case "magnitude":
            return {name: weight.abs() for name, weight in weights.items()}
        case "random":
            generator = torch.Generator().manual_seed(seed)
            return {n: torch.rand(w.shape, generator=generator) for n, w in weights.items()}
        case "gradient":
            found = measure_weight_gradients(network, layers, split, progress)
            return {name: to_matrix(each.gradient) for name, each in found.items()}
        case "taylor":
            found = measure_weight_gradients(network, layers, split, progress)
            return {name: to_matrix(each.taylor) for name, each in found.items()}
        case "activation":
            activity = measure_input_magnitudes(network, layers, split.samples, progress)
            sizes = {name: each.mean for name, each in activity.items()}
        case "wanda" | "sparsegpt":
            activity = measure_input_magnitudes(network, layers, split.samples, progress)
            sizes = {name: each.norm for name, each in activity.items()}
    return {name: weights[name].abs() * _rows(each, layers[name]) for name, each in sizes.items()}


def _rows(sizes: Tensor, layer: SparsifiableLayer) -> Tensor:
    """`[groups, columns]` to FP32 `[out, columns]`: the rows of a group read the same."""
    return sizes.float().repeat_interleave(len(layer.weight) // len(sizes), dim=0)
