"""N:M sparsity: keeps N of every M consecutive weights of a row; hardware supports 2:4."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.parameter_rules import parameters_error
from variants.compression.sparsity.criteria import Criterion, score
from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    describe_unobserved,
    find_layers,
    input_channels,
    mask_layers,
    no_layer_error,
    packable_layers,
)
from variants.compression.sparsity.order import find_order, retained
from variants.compression.sparsity.permutation import find_layer_pairs, permute
from variants.compression.sparsity.sparsegpt import reconstruct
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData
from variants.model.forward import all_scores
from variants.model.state import CompressionState, Packing, Stage
from variants.runtime.linear24 import GROUP, KEPT
from variants.runtime.patterns import keep_n_of_m

_TOLERANCE = 1e-4
"""Largest change of an output by reordering, relative to the largest output (FP32 rounding)."""
_CHECKED_SAMPLES = 64
"""Number of samples on which outputs are compared before and after reordering."""


class SparseNM(Technique):
    """Masks the weights of Linear and Conv2d layers along their inputs.

    In a convolution, M consecutive input channels at one kernel position form a group. Linear
    layers with 2:4 masks, and those with at least 70 % zeros, are stored without their zeros and
    computed by sparse kernels, unless the ONNX graph is faster (`packing`).

    A layer stays dense, and the notes say why, if the number of its inputs is not a multiple of M
    (padding would store columns that do not exist), or if it has fewer than `min_rows` outputs.
    Classifier heads hold less than 1 % of the weights,
    affect every answer, and have fewer than the 16 rows that sparse matrix units need.

    With `permute`, the inputs of a layer are first reordered so that the mask keeps more of the
    score (Pool and Yu 2021, "Channel Permutations for N:M Sparsity"), wherever the layer before, in
    an `nn.Sequential`, can produce its outputs in that order.
    """

    kind: ClassVar[str] = "sparse-n:m"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.MASKED

    n: int = Field(default=KEPT, ge=1)
    """Number of weights to keep in each group."""
    m: int = Field(default=GROUP, ge=2, le=64, validate_default=True)
    """Number of consecutive weights in a group; more than `n`."""
    criterion: Criterion = "magnitude"
    """Score that ranks weights; see `variants.compression.sparsity.criteria`."""
    min_rows: int = Field(default=16, ge=1)
    """Smallest number of outputs of a layer that is masked."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names to skip, such as `head` or `blocks.0.*`."""
    permute: bool = False
    """Whether to reorder inputs so that the masks keep more of the score."""
    packing: Packing = "auto"
    """Whether the zeros of Linear layers are left out; see `variants.model.state.Packing`."""
    samples: int = Field(default=1024, ge=1)
    """Largest number of train samples on which the criterion is computed."""
    seed: int = 0
    """Seed of the choice of samples, of the scores of `random`, and of the search for an order."""

    @field_validator("m")
    @classmethod
    def _require_n_below_m(cls, m: int, info: ValidationInfo) -> int:
        if error := parameters_error(cls.kind, info.data | {"m": m}):
            raise ValueError(error)
        return m

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with masked weights.

        Raises `ValueError` if no layer can be masked, or if reordering changes the outputs.
        """
        network = copy.deepcopy(state.network)
        candidates, notes = find_layers(network, self.exclude)
        reasons = {name: self._skip_reason(layer) for name, layer in candidates.items()}
        layers = {name: layer for name, layer in candidates.items() if not reasons[name]}
        notes += [f"layer {name} stays dense: {why}" for name, why in reasons.items() if why]
        if not layers:
            raise no_layer_error(self.kind, notes)
        masks = dict(state.masks)
        split = draw_samples(data.train, self.samples, self.seed)
        if self.permute:
            masks, reorder_notes = self._reorder(network, layers, masks, split, progress)
            notes += reorder_notes
        kept = self._choose(network, layers, masks, split, progress)
        notes += describe_unobserved(layers, kept)
        if not kept:
            raise no_layer_error(self.kind, notes)
        masks |= mask_layers(layers, kept)
        return replace(
            state,
            network=network,
            masks=masks,
            packed=state.packed | packable_layers(layers, kept),
            packing=self.packing,
            notes=(*state.notes, *notes),
        )

    def _skip_reason(self, layer: SparsifiableLayer) -> str:
        channels, rows = input_channels(layer), len(layer.weight)
        if channels % self.m:
            return f"{channels} inputs are not a multiple of {self.m}"
        if rows < self.min_rows:
            return f"{rows} outputs are fewer than min_rows = {self.min_rows}"
        return ""

    def _choose(
        self,
        network: nn.Module,
        layers: Mapping[str, SparsifiableLayer],
        masks: Mapping[str, Tensor],
        split: Split,
        progress: Progress,
    ) -> dict[str, Tensor]:
        keep = partial(keep_n_of_m, n=self.n, m=self.m)
        if self.criterion == "sparsegpt":
            keeps = dict.fromkeys(layers, keep)
            return reconstruct(network, layers, masks, keeps, self.m, split.samples, progress)
        scores = score(network, layers, masks, self.criterion, split, self.seed, progress)
        return {name: keep(each) for name, each in scores.items()}

    def _reorder(
        self,
        network: nn.Module,
        layers: Mapping[str, SparsifiableLayer],
        masks: Mapping[str, Tensor],
        split: Split,
        progress: Progress,
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Reorder channels of the network in place; return the reordered masks, and notes."""
        all_layers, _ = find_layers(network)
        pairs = find_layer_pairs(network, all_layers)
        scores = score(network, layers, masks, self.criterion, split, self.seed, progress)
        checked = split.part(0, _CHECKED_SAMPLES).samples
        before = all_scores(network, checked)
        reordered_masks, notes = dict(masks), []
        for name in progress.track(scores, description="permutation"):
            if f"{name}.weight" in masks:
                notes.append(
                    f"inputs of layer {name} keep their order: the layer is masked already"
                )
            elif name not in pairs:
                notes.append(
                    f"inputs of layer {name} keep their order: no single layer produces them"
                )
            else:
                # All kernel positions read the same channels, so each counts as additional rows.
                by_channel = scores[name].reshape(-1, input_channels(layers[name]))
                order = find_order(by_channel, self.n, self.m, self.seed)
                retained_before = retained(by_channel, self.n, self.m)
                gain = retained(by_channel[:, order], self.n, self.m) - retained_before
                reordered_masks = permute(network, reordered_masks, pairs[name], order)
                notes.append(
                    f"inputs of layer {name} are reordered: the mask keeps "
                    f"{gain / (retained_before or 1.0):.1%} more of the {self.criterion} score"
                )
        largest = before.abs().max().clamp(min=torch.finfo(before.dtype).tiny)
        change = (all_scores(network, checked) - before).abs().max() / largest
        if not torch.isfinite(change) or change > _TOLERANCE:
            raise ValueError(
                f"reordering channels changed the outputs by {float(change):.1e}: the network uses "
                "its layers in a way that its modules do not show; set permute: false"
            )
        return reordered_masks, notes
