"""The measured facts that the reasons of an explanation are based on. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from variants.catalog.catalog import Interval, Runtime


@dataclass(frozen=True)
class LayerExecution:
    """How one of the two models, dense or the variant, stores and computes a layer."""

    shape: tuple[int, ...]
    form: str
    """How its weight is stored: `float32`, `int8` and so on; see `StoredWeight`."""
    zeros: float
    """Share of the weights that are zero."""
    padding: int
    """Rows and columns of zeros at the end of the matrix."""
    arithmetic: str
    """The type that its product is computed in, according to the profile."""
    seconds: float
    """Time in one call."""

    @property
    def seconds_per_weight(self) -> float:
        """Time of a call per weight. Zeros count."""
        return self.seconds / max(1, prod(self.shape))


@dataclass(frozen=True)
class LayerTiming:
    """A layer that multiplies by a weight, in both models; None where a model does not have it."""

    name: str
    dense: LayerExecution | None
    variant: LayerExecution | None


@dataclass(frozen=True)
class Evidence:
    """The input of the rules. Every time is that of one call at the batch size."""

    batch_size: int
    runner: Runtime
    dense_runner: Runtime
    """The runtime that serves dense."""
    speedup: Interval
    speedups: Mapping[int, Interval]
    """By batch size, from the report card. May be empty."""
    seconds: float
    """Median of a call of the variant, not profiled."""
    dense_seconds: float
    layers: tuple[LayerTiming, ...]
    other_seconds: Mapping[str, float]
    """Time of the variant's operators outside layers, by kind."""
    notes: tuple[str, ...]
    """The variant's notes from its techniques."""

    @property
    def pairs(self) -> list[tuple[str, LayerExecution, LayerExecution]]:
        """The layers that both models have: name, dense, variant."""
        return [
            (layer.name, layer.dense, layer.variant)
            for layer in self.layers
            if layer.dense and layer.variant
        ]
