"""Scores of the importance of single weights, by several criteria.

All scores are computed on the network before it is pruned. Unlike the sweep of SparseGPT, they do
not take into account which weights are removed from the layers before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import SparsifiableLayer, to_matrix, unmasked_weights
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
    """Return the scores of each layer's weights `[out, columns]`; larger is more important.

    * magnitude: |w|
    * gradient: |g|, averaged over batches of labelled samples; ignores the size of the weight
    * taylor: |w g|, averaged in the same way (Molchanov et al. 2019, arXiv:1906.10771, without the
      square, which does not change the order within a batch)
    * activation: |w| times the mean |x| of the input of the weight, its contribution to the output
    * wanda: |w| times the L2 norm of the input of the weight (Sun et al. 2023, arXiv:2306.11695,
      equation 1)
    * random: uniform, from `seed`, as a control
    * sparsegpt: as wanda; SparseGPT's own scores exist only during its sweep (see `sparsegpt`)

    Weights that `masks`, by parameter name, hold at zero score -inf. A layer is missing if the
    criterion needs its inputs and they cannot be observed.
    """
    unmasked = unmasked_weights(layers, masks)
    scores = _score(network, layers, criterion, split, seed, progress)
    return {n: each.masked_fill(~unmasked[n], -torch.inf) for n, each in scores.items()}


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
            gradients = measure_weight_gradients(network, layers, split, progress)
            return {name: to_matrix(each.gradient) for name, each in gradients.items()}
        case "taylor":
            gradients = measure_weight_gradients(network, layers, split, progress)
            return {name: to_matrix(each.taylor) for name, each in gradients.items()}
        case "activation":
            magnitudes = measure_input_magnitudes(network, layers, split.samples, progress)
            input_sizes = {name: each.mean for name, each in magnitudes.items()}
        case "wanda" | "sparsegpt":
            magnitudes = measure_input_magnitudes(network, layers, split.samples, progress)
            input_sizes = {name: each.norm for name, each in magnitudes.items()}
    return {
        name: weights[name].abs() * _to_rows(each, layers[name])
        for name, each in input_sizes.items()
    }


def _to_rows(input_sizes: Tensor, layer: SparsifiableLayer) -> Tensor:
    """Expand `[groups, columns]` to FP32 `[out, columns]`: rows of a group have the same inputs."""
    return input_sizes.float().repeat_interleave(len(layer.weight) // len(input_sizes), dim=0)
