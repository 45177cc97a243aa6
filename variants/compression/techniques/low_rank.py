"""Low-rank factorisation: a Linear layer becomes two thinner ones with fewer weights together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import find_layers, no_layer_error
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.input_statistics import InputStatistics, measure_input_statistics
from variants.model.state import CompressionState, Stage
from variants.runtime.low_rank import Decomposition, break_even, replacement


class LowRankFactors(Technique):
    """Replaces each `nn.Linear` that gets smaller so by the best two layers of a rank.

    The rank is the least that keeps `energy`, or `break_even` of the rank at which nothing would be
    saved: 0.5 halves the weights. A layer stays, and the notes say why, if its two would not be
    smaller. With `whiten`, what is kept is what matters for the inputs that the layer really gets
    (see `Decomposition.of`), not for all that it could get: for how they vary, since the bias, if
    there is one, makes up for what is lost where they lie.
    """

    kind: ClassVar[str] = "low-rank"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    energy: float | None = Field(default=None, gt=0, le=1)
    """Share of the squared singular values to keep; then leave out `break_even`."""
    break_even: float | None = Field(default=None, gt=0, lt=1, validate_default=True)
    """The rank as a share of in * out / (in + out); then leave out `energy`."""
    whiten: bool = False
    exclude: tuple[str, ...] = ()
    """Names of layers to leave alone, as patterns: `head`, `blocks.0.*`."""
    samples: int = Field(default=512, ge=1)
    """How many validation samples tell what the layers get; for `whiten` only."""
    seed: int = 0

    @field_validator("break_even")
    @classmethod
    def _require_one_rank_rule(cls, share: float | None, info: ValidationInfo) -> float | None:
        if "energy" in info.data and (share is None) == (info.data["energy"] is None):
            raise ValueError("give either energy or break_even: they decide the same rank")
        return share

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a network of thinner layers."""
        found, notes = find_layers(state.network, self.exclude)
        linears = {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}
        for name in [name for name, linear in linears.items() if type(linear) is not nn.Linear]:
            kind = type(linears.pop(name)).__name__
            notes.append(f"layer {name} stays dense: a {kind} is not always called as a Linear")
        inputs = self._inputs(state.network, linears, data, progress)

        network = copy.deepcopy(state.network)
        ranks = {}
        for name in progress.track(linears, description="factorising"):
            linear = linears[name]
            seen = inputs.get(name)
            decomposition = Decomposition.of(linear.weight, _spread(linear, seen))
            rank = self._rank(linear, decomposition)
            most = break_even(linear.in_features, linear.out_features)
            if rank >= most:
                notes.append(
                    f"layer {name} stays dense: at rank {rank} it would not be smaller, which "
                    f"begins below {most:.1f}"
                )
                continue
            ranks[name] = f"{name} {rank} of {len(decomposition.singular)}"
            mean = None if seen is None else seen.mean
            made = replacement(linear, decomposition, rank, mean)
            for place in _places(state.network, linear):
                network.set_submodule(place, made)
        if not ranks:
            raise no_layer_error(self.kind, notes)
        unseen = ", ".join(name for name in ranks if self.whiten and name not in inputs)
        if unseen:
            notes.append(f"inputs not observed, so not whitened: {unseen}")
        return replace(
            state,
            network=network,
            notes=(*state.notes, *notes, f"ranks: {', '.join(ranks.values())}"),
        )

    def _inputs(
        self,
        network: nn.Module,
        linears: Mapping[str, nn.Linear],
        data: TrainingData,
        progress: Progress,
    ) -> dict[str, InputStatistics]:
        """Return what each layer gets in the network as it is, if it is wanted."""
        if not self.whiten:
            return {}
        samples = draw_samples(data.validation, self.samples, self.seed).samples
        return measure_input_statistics(network, linears, samples, progress)

    def _rank(self, linear: nn.Linear, decomposition: Decomposition) -> int:
        if self.energy is not None:
            return decomposition.rank_of(self.energy)
        assert self.break_even is not None  # checked: one of the two is given
        return max(1, int(self.break_even * break_even(linear.in_features, linear.out_features)))


def _spread(linear: nn.Linear, inputs: InputStatistics | None) -> Tensor | None:
    if inputs is None:
        return None
    return inputs.moments if linear.bias is None else inputs.covariance


def _places(network: nn.Module, wanted: nn.Module) -> list[str]:
    """Return every name under which the network has the module: one layer may serve twice."""
    everywhere = network.named_modules(remove_duplicate=False)
    return [name for name, module in everywhere if module is wanted]
