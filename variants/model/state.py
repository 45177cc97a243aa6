"""The state of a model under compression, passed from one technique to the next.

    dense network ─▶ CompressionState ─▶ technique ─▶ CompressionState ─▶ ... ─▶ artifact

A state is immutable: a technique returns a new one and does not modify its argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.catalog import TensorSpec
from variants.catalog.coverage import StepCoverage
from variants.model.dataset import Axes, TrainingData

Packing: TypeAlias = Literal["auto", "always", "never"]
"""`auto` serves a model with packed layers by sparse kernels if that is faster than its ONNX graph.
`always` takes the least memory. `never` serves the graph."""


class Stage(IntEnum):
    """Stage of a compression. Each stage allows fewer changes than the one before."""

    FREE = 0
    """Weights and shapes may change."""
    MASKED = 1
    """Some weights must stay zero, so shapes are fixed. Other weights may change."""
    GRAPH = 2
    """The model is an ONNX graph, so changes of the network have no effect."""


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a network. Techniques may not change them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Axes = field(default_factory=dict)
    """Names of the variable input dimensions other than the first."""


@dataclass(frozen=True, eq=False)
class CompressionState:
    """A network with the results of the steps applied so far."""

    network: nn.Module
    interface: Interface
    dense: nn.Module
    """The original network, a teacher for training. It must not be modified."""
    dense_graph: bytes | None = None
    """The serialized ONNX model of `dense`, if it was exported before. It saves an export."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks by parameter name, BOOL of its shape. Weights stay zero where the mask is False."""
    packed: frozenset[str] = frozenset()
    """Names of the masked `nn.Linear` layers that the artifact can store without their zeros."""
    quantized: frozenset[str] = frozenset()
    """Names of the packed layers whose weights are stored in INT8, if they are served packed.
    `graph` is then the other way to serve the model."""
    packing: Packing = "auto"
    """Whether packed layers are served by sparse kernels or as a graph with their zeros."""
    graph: bytes | None = None
    """The serialized ONNX model, if a step worked on the exported graph. It is then served."""
    conversion: Conversion | None = None
    """How the graph was made, if it can be made again after further training of the network."""
    notes: tuple[str, ...] = ()
    """Remarks for readers of the report card, such as skipped layers and the reason."""
    coverage: tuple[StepCoverage, ...] = ()
    """What each step so far changed. Techniques do not set it: `variants.build` does."""

    @property
    def stage(self) -> Stage:
        """The current stage. `variants.compression.techniques` orders steps by it."""
        if self.graph is not None:
            return Stage.GRAPH
        return Stage.MASKED if self.masks else Stage.FREE


@runtime_checkable
class Converter(Protocol):
    """A step that converts the network to a graph and supports training for that graph."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a graph."""
        ...

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Make `network` compute like the graph of `converted` within the context."""
        ...


@dataclass(frozen=True, eq=False)
class Conversion:
    """The converter that made a graph, and the state it was made from."""

    converter: Converter
    source: CompressionState


def unpacked_notes(state: CompressionState) -> tuple[str, ...]:
    """Return a note on packed layers, which a graph stores unpacked."""
    if not state.packed:
        return ()
    return (f"layers stored with their zeros, since a graph cannot pack them: {len(state.packed)}",)
