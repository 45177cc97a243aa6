"""Lottery tickets: sparse subnetworks that train from early weights to the dense accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

import torch
from pydantic import Field
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    find_layers,
    mask_layers,
    no_layer_error,
    packable_layers,
    to_matrix,
    unmasked_weights,
)
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData
from variants.model.initial import initialize
from variants.model.state import CompressionState, Stage
from variants.model.training import Schedule, count_steps, fit
from variants.runtime.patterns import keep_share_of_all

_CONTROL_SEED_OFFSET: Final = 2**31
"""Separates the seeds of the controls from those of recipes; torch uses 32 bits of a seed."""


@dataclass(frozen=True, eq=False)
class TicketSearch:
    """Result of the pruning rounds."""

    rewind_state: Mapping[str, Tensor]
    """State dict after `rewind_steps` steps, before any pruning."""
    masks: tuple[Mapping[str, Tensor], ...]
    """Masks after each round by parameter name: BOOL of its shape, True where weights are kept."""


class LotteryTicket(Technique, Schedule):
    """Trains the architecture from new weights, repeatedly; the given weights are not used.

    Each round trains to the end of the schedule, masks `share_per_round` of the remaining weights
    of the Linear and Conv2d layers, those of smallest magnitude over all layers, and rewinds the
    others to their values after `rewind_steps` steps. 0 steps is Frankle and Carbin 2018
    (arXiv:1803.03635); larger networks need more, as in Frankle et al. 2019 (arXiv:1903.01611).
    The last ticket is then trained to the end. That makes `rounds` + 1 trainings, each over the
    whole schedule except the steps before the rewind point.

    Two controls separate the effects of the early weights and of the mask: `reinit` trains with the
    ticket's masks from other initial weights; `random-mask` trains the early weights with random
    masks that keep as many weights in each layer.

    `epochs`, `batch_size`, `learning_rate`, `weight_decay` and `seed` are those of `Schedule`.
    """

    kind: ClassVar[str] = "lottery-ticket"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.MASKED

    rounds: int = Field(default=5, ge=1)
    """Number of pruning rounds."""
    share_per_round: float = Field(default=0.2, gt=0, lt=1)
    """Share of the remaining weights that each round masks."""
    rewind_steps: int = Field(default=0, ge=0)
    """Training step whose weights each round starts from."""
    control: Literal["none", "reinit", "random-mask"] = "none"
    """Control experiment to run instead of the ticket."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names to skip, such as `head` or `blocks.0.*`."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a trained ticket and its masks.

        Raises `ValueError` if an earlier step changed the network, since the change would be lost,
        if `rewind_steps` exceeds the schedule, or if no layer can be masked.
        """
        _require_unchanged(state)
        steps = count_steps(len(data.train), self)
        if self.rewind_steps >= steps:
            raise ValueError(
                f"rewind_steps must be less than the {steps} steps of the schedule, "
                f"got {self.rewind_steps}"
            )
        search = self.search(state.dense, data.train, progress)
        network, masks = self.start(state.dense, search)
        first = 0 if self.control == "reinit" else self.rewind_steps
        remaining = range(first, steps)
        fit(network, data.train, self, progress, masks=masks, steps=remaining, label="ticket")
        layers, skipped = find_layers(network, self.exclude)
        return replace(
            state,
            network=network,
            masks=masks,
            packed=packable_layers(layers, {n: to_matrix(masks[f"{n}.weight"]) for n in layers}),
            notes=(*state.notes, *skipped, self._summary(masks)),
        )

    def search(self, architecture: nn.Module, split: Split, progress: Progress) -> TicketSearch:
        """Return the masks that `rounds` rounds of training on the split find."""
        network = initialize(architecture, self.seed)
        layers, skipped = find_layers(network, self.exclude)
        if not layers:
            raise no_layer_error(self.kind, skipped)
        steps = count_steps(len(split), self)
        fit(network, split, self, progress, steps=range(self.rewind_steps), label="first steps")
        rewind_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        masks: dict[str, Tensor] = {}
        masks_by_round = []
        for number in range(1, self.rounds + 1):
            fit(
                network,
                split,
                self,
                progress,
                masks=masks,
                steps=range(self.rewind_steps, steps),
                label=f"round {number} of {self.rounds}",
            )
            removed = 1 - (1 - self.share_per_round) ** number
            kept = keep_share_of_all(_magnitudes(layers, masks), removed)
            network.load_state_dict(rewind_state)
            masks = mask_layers(layers, kept)
            masks_by_round.append(masks)
        return TicketSearch(rewind_state, tuple(masks_by_round))

    def start(
        self, architecture: nn.Module, search: TicketSearch
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return the network that the last training starts from, and its masks."""
        masks = dict(search.masks[-1])
        if self.control == "random-mask":
            generator = torch.Generator().manual_seed(self.seed + _CONTROL_SEED_OFFSET)
            masks = {name: _shuffled(mask, generator) for name, mask in masks.items()}
        seed = self.seed + _CONTROL_SEED_OFFSET if self.control == "reinit" else self.seed
        network = initialize(architecture, seed)
        if self.control != "reinit":
            network.load_state_dict(search.rewind_state)
        with torch.no_grad():
            for name, mask in masks.items():
                network.get_parameter(name).masked_fill_(~mask, 0.0)
        return network, masks

    def _summary(self, masks: Mapping[str, Tensor]) -> str:
        total = sum(mask.numel() for mask in masks.values())
        left = sum(int(mask.sum()) for mask in masks.values())
        layers = ", ".join(
            f"{name.removesuffix('.weight')} {mask.double().mean():.1%}"
            for name, mask in masks.items()
        )
        control = "" if self.control == "none" else f"; control: {self.control}"
        return (
            f"{left:,} of {total:,} weights are kept after {self.rounds} rounds "
            f"(by layer: {layers}){control}"
        )


def _require_unchanged(state: CompressionState) -> None:
    dense, current = state.dense.state_dict(), state.network.state_dict()
    for name in {**dense, **current}:
        before, after = dense.get(name), current.get(name)
        if before is None or after is None or not torch.equal(before, after):
            raise ValueError(
                "a lottery ticket is trained from new weights in the shapes that the model's "
                f"factory builds, so it must be the first step; an earlier step changed {name!r}, "
                "and the change would be lost"
            )


def _magnitudes(
    layers: Mapping[str, SparsifiableLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the magnitudes of the weights by layer, -inf for masked weights."""
    unmasked = unmasked_weights(layers, masks)
    return {
        name: to_matrix(layer.weight.detach()).abs().masked_fill(~unmasked[name], -torch.inf)
        for name, layer in layers.items()
    }


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator)
    return mask.flatten()[order].reshape(mask.shape)
