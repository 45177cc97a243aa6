"""Low-rank factorization: replaces a Linear by two smaller ones with fewer weights in total."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator
from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.parameter_rules import parameters_error
from variants.compression.sparsity.layers import find_layers, no_layer_error
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.input_statistics import InputStatistics, measure_input_statistics
from variants.model.state import CompressionState, Stage
from variants.runtime.low_rank import Decomposition, break_even, replacement


class LowRankFactors(Technique):
    """Replaces each `nn.Linear` by its best approximation of a given rank, as two layers.

    The rank is the smallest that keeps `energy`, or `break_even` times the break-even rank
    in * out / (in + out), at which the two layers have as many weights as the one: 0.5 halves the
    weights. A layer whose factors would not be smaller stays dense, and the notes say why.

    With `whiten`, the approximation minimizes the error on the layer's observed inputs instead of
    the error of the weight (see `Decomposition.of`). If the layer has a bias, the bias corrects the
    error at the mean input, so that the covariance of the inputs decides; otherwise their second
    moments do.
    """

    kind: ClassVar[str] = "low-rank"
    accepts: ClassVar[Stage] = Stage.FREE
    yields: ClassVar[Stage] = Stage.FREE

    energy: float | None = Field(default=None, gt=0, le=1)
    """Share of the squared singular values to keep; excludes `break_even`."""
    break_even: float | None = Field(default=None, gt=0, lt=1, validate_default=True)
    """Rank as a fraction of the break-even rank in * out / (in + out); excludes `energy`."""
    whiten: bool = False
    """Whether to minimize the error on observed inputs rather than that of the weight."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names to skip, such as `head` or `blocks.0.*`."""
    samples: int = Field(default=512, ge=1)
    """Number of validation samples on which inputs are observed; used with `whiten` only."""
    seed: int = 0
    """Seed of the choice of samples."""

    @field_validator("break_even")
    @classmethod
    def _require_one_rank_rule(cls, share: float | None, info: ValidationInfo) -> float | None:
        if error := parameters_error(cls.kind, info.data | {"break_even": share}):
            raise ValueError(error)
        return share

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with factorized layers.

        Raises `ValueError` if no layer becomes smaller.
        """
        layers, notes = find_layers(state.network, self.exclude)
        linears = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        for name in [name for name, linear in linears.items() if type(linear) is not nn.Linear]:
            kind = type(linears.pop(name)).__name__
            notes.append(f"layer {name} stays dense: a {kind} is not always called like a Linear")
        inputs = self._inputs(state.network, linears, data, progress)

        network = copy.deepcopy(state.network)
        ranks = {}
        for name in progress.track(linears, description="factorizing"):
            linear = linears[name]
            statistics = inputs.get(name)
            decomposition = Decomposition.of(linear.weight, _input_moments(linear, statistics))
            rank = self._rank(linear, decomposition)
            break_even_rank = break_even(linear.in_features, linear.out_features)
            if rank >= break_even_rank:
                notes.append(
                    f"layer {name} stays dense: rank {rank} would not make it smaller, since "
                    f"that needs a rank below {break_even_rank:.1f}"
                )
                continue
            ranks[name] = f"{name} {rank} of {len(decomposition.singular)}"
            mean = None if statistics is None else statistics.mean
            replaced = replacement(linear, decomposition, rank, mean)
            for alias in _module_names(state.network, linear):
                network.set_submodule(alias, replaced)
        if not ranks:
            raise no_layer_error(self.kind, notes)
        unobserved = ", ".join(name for name in ranks if self.whiten and name not in inputs)
        if unobserved:
            notes.append(
                f"factorized without whitening, because the inputs cannot be observed: {unobserved}"
            )
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
        """Return the statistics of the layers' inputs by layer; none without `whiten`."""
        if not self.whiten:
            return {}
        samples = draw_samples(data.validation, self.samples, self.seed).samples
        return measure_input_statistics(network, linears, samples, progress)

    def _rank(self, linear: nn.Linear, decomposition: Decomposition) -> int:
        if self.energy is not None:
            return decomposition.rank_of(self.energy)
        assert self.break_even is not None  # validated: one of the two is set
        return max(1, int(self.break_even * break_even(linear.in_features, linear.out_features)))


def _input_moments(linear: nn.Linear, inputs: InputStatistics | None) -> Tensor | None:
    if inputs is None:
        return None
    return inputs.moments if linear.bias is None else inputs.covariance


def _module_names(network: nn.Module, target: nn.Module) -> list[str]:
    """Return every name of a module in the network; a module can be registered several times."""
    everywhere = network.named_modules(remove_duplicate=False)
    return [name for name, module in everywhere if module is target]
