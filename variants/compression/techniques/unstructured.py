"""Unstructured pruning: masks single weights; shapes do not change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.parameter_rules import parameters_error
from variants.compression.sparsity.criteria import Criterion, score
from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    describe_unobserved,
    find_layers,
    mask_layers,
    no_layer_error,
    packable_layers,
)
from variants.compression.sparsity.sparsegpt import BLOCK, reconstruct
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.ramp import BetweenRounds, ramp
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData
from variants.model.state import CompressionState, Packing, Stage
from variants.model.training import fit
from variants.runtime.patterns import keep_share, keep_share_of_all, keep_share_of_rows


class Unstructured(Technique):
    """Masks a share of the weights of every Linear and Conv2d; biases are kept.

    With `rounds` above 1, round t masks the fraction 1 - (1 - t / rounds)^3 of the share (Zhu and
    Gupta 2017, arXiv:1710.01878, equation 1). Each round computes new scores, and `recover` trains
    the remaining weights in between.

    Weights that an earlier step masked count towards the share and stay masked. Linear layers with
    at least 70 % zeros are stored without them and computed by sparse kernels, unless the ONNX
    graph is faster (`packing`). Masks of other layers make nothing faster, and files become smaller
    only if they are compressed afterwards.
    """

    kind: ClassVar[str] = "unstructured"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.MASKED

    share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the weights that is masked afterwards; excludes `shares`."""
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None, validate_default=True
    )
    """Share by layer name, as `sensitivity` proposes them; other layers are not masked. Excludes
    `share`."""
    criterion: Criterion = "magnitude"
    """Score that ranks weights; see `variants.compression.sparsity.criteria`."""
    scope: Literal["layer", "global"] = "layer"
    """`layer` masks the share of each layer; `global` masks the lowest scores of all layers. With
    `layer`, wanda masks the share of each row and sparsegpt that of every 128 columns, as in their
    papers."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names to skip, such as `head` or `blocks.0.*`."""
    packing: Packing = "auto"
    """Whether the zeros of Linear layers are left out; see `variants.model.state.Packing`."""
    samples: int = Field(default=1024, ge=1)
    """Largest number of train samples on which the criterion is computed."""
    seed: int = 0
    """Seed of the choice of samples, and of the scores of `random`."""
    rounds: int = Field(default=1, ge=1)
    """Number of pruning rounds."""
    recover: BetweenRounds = None
    """Training between rounds; to train after the last round, add a step `recover`."""

    @field_validator("shares")
    @classmethod
    def _require_one_share(
        cls, shares: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        if error := parameters_error(cls.kind, info.data | {"shares": shares}):
            raise ValueError(error)
        return shares

    @field_validator("scope")
    @classmethod
    def _require_comparable_scores(cls, scope: str, info: ValidationInfo) -> str:
        if error := parameters_error(cls.kind, info.data | {"scope": scope}):
            raise ValueError(error)
        return scope

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with masked weights.

        Raises `ValueError` if no layer can be masked, or if `shares` names an unknown layer.
        """
        network = copy.deepcopy(state.network)
        layers, notes = find_layers(network, self.exclude)
        if not layers:
            raise no_layer_error(self.kind, notes)
        shares = self._shares(layers)
        layers = {name: layer for name, layer in layers.items() if name in shares}
        masks = dict(state.masks)
        split = draw_samples(data.train, self.samples, self.seed)
        kept: dict[str, Tensor] = {}
        for number in range(1, self.rounds + 1):
            removed = {name: share * ramp(number, self.rounds) for name, share in shares.items()}
            kept = self._choose(network, layers, masks, removed, split, progress)
            if not kept:
                raise no_layer_error(self.kind, (*notes, *describe_unobserved(layers, kept)))
            masks |= mask_layers(layers, kept)
            if self.recover is not None and number < self.rounds:
                fit(network, data.train, self.recover, progress, masks=masks, label="recovery")
        return replace(
            state,
            network=network,
            masks=masks,
            packed=state.packed | packable_layers(layers, kept),
            packing=self.packing,
            notes=(*state.notes, *notes, *describe_unobserved(layers, kept), self._summary(kept)),
        )

    def _choose(
        self,
        network: nn.Module,
        layers: Mapping[str, SparsifiableLayer],
        masks: Mapping[str, Tensor],
        removed: Mapping[str, float],
        split: Split,
        progress: Progress,
    ) -> dict[str, Tensor]:
        if self.criterion == "sparsegpt":
            keep = {name: partial(keep_share, removed=share) for name, share in removed.items()}
            return reconstruct(network, layers, masks, keep, BLOCK, split.samples, progress)
        scores = score(network, layers, masks, self.criterion, split, self.seed, progress)
        if self.scope == "global" and scores:
            return keep_share_of_all(
                scores, max(removed.values())
            )  # all layers have the same share
        choose = keep_share_of_rows if self.criterion == "wanda" else keep_share
        return {name: choose(each, removed[name]) for name, each in scores.items()}

    def _shares(self, layers: Mapping[str, SparsifiableLayer]) -> dict[str, float]:
        if self.share is not None:
            return dict.fromkeys(layers, self.share)
        shares = self.shares or {}
        if unknown := sorted(shares.keys() - layers.keys()):
            raise ValueError(
                f"shares: unknown layer {', '.join(unknown)}; the layers that can be masked are "
                f"{', '.join(layers)}"
            )
        return shares

    def _summary(self, kept: Mapping[str, Tensor]) -> str:
        total = sum(mask.numel() for mask in kept.values())
        masked = total - sum(int(mask.sum()) for mask in kept.values())
        layers = ", ".join(f"{name} {1 - _share(mask):.1%}" for name, mask in kept.items())
        is_even = self.scope == "layer" and self.shares is None
        by_layer = "" if is_even else f" (by layer: {layers})"
        return f"{masked:,} of {total:,} weights are masked by {self.criterion}{by_layer}"


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
