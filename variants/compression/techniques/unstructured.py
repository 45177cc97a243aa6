"""Unstructured pruning: single weights go, wherever they are; shapes stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.criteria import Criterion, score
from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    describe_unobserved,
    find_layers,
    mask_layers,
    no_layer_error,
)
from variants.compression.sparsity.sparsegpt import BLOCK, reconstruct
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.ramp import BetweenRounds, ramp
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData
from variants.model.state import CompressionState, Stage
from variants.model.training import fit
from variants.runtime.patterns import keep_share, keep_share_of_all, keep_share_of_rows

_WHY_NOT_GLOBAL = {
    "wanda": "it compares the weights of one output: sizes of different layers' inputs say nothing",
    "sparsegpt": "it prunes layer after layer, each knowing only the error of its own output",
}


class Unstructured(Technique):
    """Masks a share of the weights of every Linear and Conv2d; biases stay.

    In `rounds` above 1 the share rises as 1 - (1 - t / rounds)^3 of the whole (Zhu and Gupta 2017,
    arXiv:1710.01878, (1)), scores are taken anew each time, and `recover` trains what is left
    between rounds; training after the last round is the recipe's next step.

    Weights masked before count towards the share and never return. Nothing gets faster by this
    alone, and files are smaller only once they are compressed.
    """

    kind: ClassVar[str] = "unstructured"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.MASKED

    share: float | None = Field(default=None, gt=0, lt=1)
    """Of all weights of the layers, how many are zero afterwards; or give `shares`."""
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None, validate_default=True
    )
    """The share of each layer that shall lose any, by name, as `sensitivity` proposes them."""
    criterion: Criterion = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    """Whether each layer loses the share, or all together and the least important first. By layer,
    wanda takes the share of each row, and sparsegpt of each 128 columns, as their papers do."""
    exclude: tuple[str, ...] = ()
    """Names of layers to leave alone, as patterns: `head`, `blocks.0.*`."""
    samples: int = Field(default=1024, ge=1)
    """How many samples of the train split the criterion may look at."""
    seed: int = 0
    rounds: int = Field(default=1, ge=1)
    recover: BetweenRounds = None

    @field_validator("shares")
    @classmethod
    def _one_way(
        cls, shares: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        if "share" in info.data and (info.data["share"] is None) == (not shares):
            raise ValueError("give either share, for all layers, or shares by layer")
        return shares

    @field_validator("scope")
    @classmethod
    def _require_comparable_scores(cls, scope: str, info: ValidationInfo) -> str:
        criterion = info.data.get("criterion", "")
        if scope == "global" and criterion in _WHY_NOT_GLOBAL:
            raise ValueError(
                f"{criterion} cannot be global: {_WHY_NOT_GLOBAL[criterion]}; use layer"
            )
        if scope == "global" and info.data.get("shares"):
            raise ValueError("the shares are by layer already; use layer")
        return scope

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with masked weights."""
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
            return keep_share_of_all(scores, max(removed.values()))  # there is but one
        choose = keep_share_of_rows if self.criterion == "wanda" else keep_share
        return {name: choose(each, removed[name]) for name, each in scores.items()}

    def _shares(self, layers: Mapping[str, SparsifiableLayer]) -> dict[str, float]:
        if self.share is not None:
            return dict.fromkeys(layers, self.share)
        shares = self.shares or {}
        if unknown := sorted(shares.keys() - layers.keys()):
            raise ValueError(
                f"shares: there is no layer {', '.join(unknown)} to mask; there are "
                f"{', '.join(layers)}"
            )
        return shares

    def _summary(self, kept: Mapping[str, Tensor]) -> str:
        total = sum(mask.numel() for mask in kept.values())
        gone = total - sum(int(mask.sum()) for mask in kept.values())
        layers = ", ".join(f"{name} {1 - _share(mask):.1%}" for name, mask in kept.items())
        is_even = self.scope == "layer" and self.shares is None
        by_layer = "" if is_even else f" (by layer: {layers})"
        return f"{gone:,} of {total:,} weights are masked, by {self.criterion}{by_layer}"


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
