"""Weights in half the bytes: FP16 or BF16 in the file, FP32 once it is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar

from rich.progress import Progress
from torch import nn

from variants.compression.export import export
from variants.compression.quantization.half import Half, store_half
from variants.compression.quantization.layer import name_weights
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Conversion, Stage, unpacked_notes


class HalfPrecision(Technique):
    """Stores the weights of the exported graph in 16 bits, and computes as dense does.

    onnxruntime's CPU kernels are FP32: the file is half as large, and the model neither faster nor
    smaller in memory. A `recover` that follows trains in FP32 and stores the result anew: rounding
    at this precision costs nothing that training for it could win back.
    """

    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    datatype: ClassVar[Half]

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a graph of half the bytes."""
        network = state.network
        exported = export(network, data.validation.samples, state.interface)
        made, notes = store_half(name_weights(exported, network), self.datatype)
        return replace(
            state,
            graph=made.SerializeToString(deterministic=True),
            conversion=Conversion(self, state),
            notes=(*state.notes, *notes, *unpacked_notes(state)),
        )

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Leave the network as it is."""
        return nullcontext()


class Fp16(HalfPrecision):
    """Stores weights with 11 significant bits, up to 65504; below 6e-8 they become zero."""

    kind: ClassVar[str] = "fp16"
    datatype: ClassVar[Half] = "FP16"


class Bf16(HalfPrecision):
    """Stores weights with 8 significant bits and the range of FP32."""

    kind: ClassVar[str] = "bf16"
    datatype: ClassVar[Half] = "BF16"
