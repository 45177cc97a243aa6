"""Half precision: weights stored as FP16 or BF16 and converted to FP32 at load."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar

from rich.progress import Progress
from torch import nn

from variants.compression.export import export_state
from variants.compression.quantization.half import Half, store_half
from variants.compression.quantization.layer import name_weights
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Conversion, Stage, unpacked_notes


class HalfPrecision(Technique):
    """Stores the weights of the exported graph in 16 bits; computation stays in FP32.

    onnxruntime's CPU kernels are FP32, so the file is half as large, but the model is neither
    faster nor smaller in memory. A `recover` step that follows trains in FP32 and then stores the
    result again: training that simulates the rounding would gain nothing at this precision.
    """

    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    datatype: ClassVar[Half]
    """Datatype of the stored weights."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a graph whose weights take half the bytes."""
        network = state.network
        exported = export_state(state, data.validation.samples)
        model, notes = store_half(name_weights(exported, network), self.datatype)
        return replace(
            state,
            graph=model.SerializeToString(deterministic=True),
            conversion=Conversion(self, state),
            notes=(*state.notes, *notes, *unpacked_notes(state)),
        )

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Return a context that leaves the network unchanged."""
        return nullcontext()


class Fp16(HalfPrecision):
    """Stores weights as FP16: 11 significant bits, magnitudes up to 65504.

    Magnitudes below 6e-8 become zero.
    """

    kind: ClassVar[str] = "fp16"
    datatype: ClassVar[Half] = "FP16"


class Bf16(HalfPrecision):
    """Stores weights as BF16: 8 significant bits and the range of FP32."""

    kind: ClassVar[str] = "bf16"
    datatype: ClassVar[Half] = "BF16"
