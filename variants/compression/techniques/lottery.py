"""Lottery tickets: a sparse network that, trained from early weights, learns what dense learns."""

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
    allowed_weights,
    find_layers,
    mask_layers,
    to_matrix,
)
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Split, TrainingData
from variants.model.initial import initialise
from variants.model.state import CompressionState, Stage
from variants.model.training import Schedule, count_steps, fit
from variants.runtime.patterns import keep_share_of_all

_SEED_OFFSET: Final = 2**31
"""Added to a seed: no run of a recipe draws its first weights by it. Torch uses 32 bits of one."""


@dataclass(frozen=True, eq=False)
class TicketSearch:
    """What the rounds have found."""

    rewind_state: Mapping[str, Tensor]
    """The network's state after `rewind_steps` steps, before anything was pruned."""
    masks: tuple[Mapping[str, Tensor], ...]
    """After each round, by parameter name: BOOL of its shape, True where the weight stays."""


class LotteryTicket(Technique, Schedule):
    """Trains the architecture from nothing, again and again; what it was trained to is not used.

    In each round: train to the end, mask `share_per_round` of the weights that are left in Linear
    and Conv2d layers, the smallest of all, and rewind the others to what they were after
    `rewind_steps` steps: 0 as in Frankle and Carbin 2018 (arXiv:1803.03635), more as in Frankle et
    al. 2019 (arXiv:1903.01611), who need it for larger networks. The last ticket is then trained to
    the end: `rounds` + 1 trainings in all, each by the whole schedule but for the steps before.

    Two controls say what is owed to the early weights and what to the mask: `reinit` trains the
    ticket's mask from other first weights, `random-mask` the early weights under a mask that keeps
    as many in each layer, anywhere.
    """

    kind: ClassVar[str] = "lottery-ticket"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.MASKED

    rounds: int = Field(default=5, ge=1)
    share_per_round: float = Field(default=0.2, gt=0, lt=1)
    rewind_steps: int = Field(default=0, ge=0)
    control: Literal["none", "reinit", "random-mask"] = "none"
    exclude: tuple[str, ...] = ()
    """Names of layers to leave alone, as patterns: `head`, `blocks.0.*`."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a trained ticket and its masks.

        Raises `ValueError` if a step before has changed the network: nothing of that would be left.
        """
        _require_unchanged(state)
        steps = count_steps(len(data.train), self)
        if self.rewind_steps >= steps:
            raise ValueError(
                f"rewind_steps must be less than the {steps} steps of a training, "
                f"got {self.rewind_steps}"
            )
        search = self.search(state.dense, data.train, progress)
        network, masks = self.start(state.dense, search)
        first = 0 if self.control == "reinit" else self.rewind_steps
        remaining = range(first, steps)
        fit(network, data.train, self, progress, masks=masks, steps=remaining, label="ticket")
        _, skipped = find_layers(network, self.exclude)
        return replace(
            state,
            network=network,
            masks=masks,
            notes=(*state.notes, *skipped, self._summary(masks)),
        )

    def search(self, architecture: nn.Module, split: Split, progress: Progress) -> TicketSearch:
        """Find a mask in `rounds` rounds of training on the split."""
        network = initialise(architecture, self.seed)
        layers, skipped = find_layers(network, self.exclude)
        if not layers:
            reasons = "; ".join(skipped) or "it has no Linear or Conv2d that is not excluded"
            raise ValueError(f"{self.kind} found no layer to work on: {reasons}")
        steps = count_steps(len(split), self)
        fit(network, split, self, progress, steps=range(self.rewind_steps), label="first steps")
        rewind_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        masks: dict[str, Tensor] = {}
        found = []
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
            kept = keep_share_of_all(_sizes(layers, masks), removed)
            network.load_state_dict(rewind_state)
            masks = mask_layers(layers, kept)
            found.append(masks)
        return TicketSearch(rewind_state, tuple(found))

    def start(
        self, architecture: nn.Module, search: TicketSearch
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return the network from which the last training starts, and its masks."""
        masks = dict(search.masks[-1])
        if self.control == "random-mask":
            generator = torch.Generator().manual_seed(self.seed + _SEED_OFFSET)
            masks = {name: _shuffled(mask, generator) for name, mask in masks.items()}
        anew = self.seed + _SEED_OFFSET if self.control == "reinit" else self.seed
        network = initialise(architecture, anew)
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
            f"{left:,} of {total:,} weights are left after {self.rounds} rounds "
            f"(by layer: {layers}){control}"
        )


def _require_unchanged(state: CompressionState) -> None:
    dense, given = state.dense.state_dict(), state.network.state_dict()
    for name in {**dense, **given}:
        ours, theirs = dense.get(name), given.get(name)
        if ours is None or theirs is None or not torch.equal(ours, theirs):
            raise ValueError(
                "a lottery ticket is trained from nothing in the shapes that the factory builds: "
                f"it must be the first step, but {name!r} was changed before, which would be lost"
            )


def _sizes(
    layers: Mapping[str, SparsifiableLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the magnitudes of the weights that are not masked; the others' are below all."""
    allowed = allowed_weights(layers, masks)
    return {
        name: to_matrix(layer.weight.detach()).abs().masked_fill(~allowed[name], -torch.inf)
        for name, layer in layers.items()
    }


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator)
    return mask.flatten()[order].reshape(mask.shape)
