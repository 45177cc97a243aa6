"""Which kernel computes each sparse layer at each batch size, as measured on one machine.

    layer ─▶ {rows: kernel}      rows: product of the leading dimensions of the layer's input

Plain data, part of the report card for a hardware key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from pydantic import Field, model_validator

from variants.catalog.record import Record

DENSE: Final = "dense"
"""Kernel name of torch's dense product."""
PACKED_DENSE: Final = "packed dense"
"""Kernel name of this project's dense product with packed weights."""


class KernelChoice(Record):
    """The kernel of a layer up to a number of rows."""

    rows: int = Field(ge=1)
    """The number of rows that was measured."""
    kernel: str
    """`dense`, `packed dense`, or an algorithm of the layer's sparse operator. On a GPU `dense`,
    `dense` with an arithmetic, such as `dense bfloat16`, or `2:4`."""
    seconds: float = Field(gt=0)
    """Median time of this kernel."""
    dense_s: float = Field(gt=0)
    """Median time of torch's dense product of the same size, in FP32; on a GPU of the fastest
    dense product, which may have fewer bits."""
    algorithm: int | None = None
    """Algorithm of cuSPARSELt; None for all other kernels."""

    @property
    def speedup(self) -> float:
        """Time of the dense product divided by the time of this kernel."""
        return self.dense_s / self.seconds


class LayerKernels(Record):
    """The kernels of a layer, or the reason why it has none."""

    kind: str
    """How the artifact stores the weight: `linear-2:4`, `linear-sparse`, `dense` and so on."""
    shape: tuple[int, ...]
    """Shape of the weight, outputs first."""
    zeros: float = Field(ge=0, le=1)
    """Share of the weights that are zero."""
    rows_per_sample: int = Field(default=1, ge=1)
    """Rows that the layer computes for each sample of a batch."""
    choices: tuple[KernelChoice, ...] = ()
    """By ascending rows. Larger inputs take the last kernel. Empty if nothing was measured."""
    reason: str = ""
    """Why the layer is computed densely; empty if a sparse kernel is used at some batch size."""

    @model_validator(mode="after")
    def _require_ascending_rows(self) -> LayerKernels:
        rows = [choice.rows for choice in self.choices]
        if rows != sorted(set(rows)):
            raise ValueError(f"rows must ascend strictly, got {rows}")
        return self

    def at(self, rows: int) -> KernelChoice | None:
        """Return the choice for a number of rows; None if nothing was measured."""
        if not self.choices:
            return None
        index = bisect_left([choice.rows for choice in self.choices], rows)
        return self.choices[min(index, len(self.choices) - 1)]


class KernelTable(Record):
    """The kernels of a network, measured with one instruction set."""

    instruction_set: str
    """Instruction set of the compiled library; empty if there is none. On a GPU, its name and the
    version of cuSPARSELt."""
    missing: str = ""
    """Why there are no compiled kernels; empty if there are."""
    layers: Mapping[str, LayerKernels]
    """By name, in the order of the network."""
