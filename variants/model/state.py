"""A model under compression, as it is handed from one technique to the next.

    Workpiece(dense network) ─▶ technique ─▶ technique ─▶ Workpiece ─▶ artifact

A workpiece is a value: a technique returns another one and leaves its own untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, runtime_checkable

from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.catalog import TensorSpec
from variants.model.dataset import Axes, TrainingData


class Stage(IntEnum):
    """How far a workpiece has come. Each stage allows less than the one before."""

    FREE = 0
    """Weights and shapes may change."""
    MASKED = 1
    """Some weights must stay zero, so shapes are fixed; the other weights may change."""
    GRAPH = 2
    """The model is an ONNX graph: a change of the network would not reach it."""


@dataclass(frozen=True)
class Interface:
    """What goes into a network and what comes out: no technique may change it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Axes = field(default_factory=dict)
    """Names of the inputs' dimensions of variable size, beside the first."""


@dataclass(frozen=True, eq=False)
class CompressionState:
    """The network and what the steps so far have decided about it."""

    network: nn.Module
    interface: Interface
    dense: nn.Module
    """The network as it was brought, to learn from; nothing may change it."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """By parameter name, BOOL of its shape: where False, the weight is zero and must stay so."""
    packed: frozenset[str] = frozenset()
    """Names of the `nn.Linear`s whose masks are 2:4 and which the artifact stores as `Linear24`."""
    graph: bytes | None = None
    """The model as ONNX, once a step has worked on the exported graph: that is then served."""
    conversion: Conversion | None = None
    """How the graph was made, if it can be made anew from a network that has learnt more."""
    notes: tuple[str, ...] = ()
    """What a reader of the report card should know: layers skipped, and why."""

    @property
    def stage(self) -> Stage:
        """How far this has come; `variants.compression.techniques` orders the steps by it."""
        if self.graph is not None:
            return Stage.GRAPH
        return Stage.MASKED if self.masks else Stage.FREE


@runtime_checkable
class Converter(Protocol):
    """A step that makes the graph from the network, and lets the network be trained for it."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a graph."""
        ...

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Let `network` compute as the graph of `converted` does, while the context lasts."""
        ...


@dataclass(frozen=True, eq=False)
class Conversion:
    """What made a graph, and from what."""

    by: Converter
    given: CompressionState


def unpacked(state: CompressionState) -> tuple[str, ...]:
    """Return what to note where a graph stores whole what the artifact would have packed."""
    if not state.packed:
        return ()
    return (f"stored whole, zeros included, since a graph packs none: {len(state.packed)} layers",)
