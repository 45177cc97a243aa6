"""A model under compression, as it is handed from one technique to the next.

    Workpiece(dense network) ─▶ technique ─▶ technique ─▶ Workpiece ─▶ artifact

A workpiece is a value: a technique returns another one and leaves its own untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from torch import Tensor, nn

from variants.catalog import TensorSpec


class Stage(IntEnum):
    """How far a workpiece has come. Each stage allows less than the one before."""

    FREE = 0
    """Weights and shapes may change."""
    MASKED = 1
    """Some weights must stay zero, so shapes are fixed; the other weights may change."""
    GRAPH = 2
    """The model is an ONNX graph: nothing that works on the network can change it."""


@dataclass(frozen=True, eq=False)
class Workpiece:
    """The network and what the steps so far have decided about it."""

    network: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """By parameter name, BOOL of its shape: where False, the weight is zero and must stay so."""
    packed: frozenset[str] = frozenset()
    """Names of the `nn.Linear`s whose masks are 2:4 and which the artifact stores as `Linear24`."""
    graph: bytes | None = None
    """The model as ONNX, once a step has worked on the exported graph: that is then served."""
    notes: tuple[str, ...] = ()
    """What a reader of the report card should know: layers skipped, and why."""

    @property
    def stage(self) -> Stage:
        """How far this has come; `variants.techniques` orders the steps by it."""
        if self.graph is not None:
            return Stage.GRAPH
        return Stage.MASKED if self.masks else Stage.FREE
