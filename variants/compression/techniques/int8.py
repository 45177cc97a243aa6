"""INT8 by onnxruntime's quantisation: unsigned activations, signed weights (U8S8)."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal

import onnx
from pydantic import Field
from rich.progress import Progress
from torch import nn

from variants.catalog.hardware import hardware
from variants.compression.export import export
from variants.compression.quantization.calibration import METHODS, Method, calibrate
from variants.compression.quantization.comparator import (
    GraphComparator,
    GraphWriter,
    choose_by_agreement,
    limit_accuracy_drop,
)
from variants.compression.quantization.fake import read_grids, simulate_quantization
from variants.compression.quantization.layer import (
    QuantizableLayer,
    convolution_share,
    find_layers,
    is_excluded,
    name_weights,
)
from variants.compression.quantization.writing import WeightFormat, write_dynamic, write_static
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Samples, Split, TrainingData, count, rows
from variants.model.state import CompressionState, Conversion, Stage, unpacked_notes
from variants.runtime.saturation import saturates

_MAX_CONVOLUTION_SHARE: Final = 0.5


class Int8(Technique):
    """Quantises the exported graph's layers: convolutions, Linear layers and embeddings.

    `static` has ranges of activations that samples of the validation split have shown; `dynamic`
    finds them in each request, which suits transformers and knows no convolution. Layers that fit
    a pattern in `exclude`, as in `head` or `blocks.0.*`, stay in FP32. So do, with `max_drop`,
    those that lose most when quantised alone, until the INT8 graph's accuracy is at most that
    share below the FP32 graph's, both on validation samples that gave no ranges. The notes
    name them.

    `reduce_range` stores weights in 7 bits. A processor without VNNI adds pairs of products in 16
    bits, where 8-bit weights would saturate: `OnnxRunner` multiplies those exactly, but more
    slowly than weights of 7 bits. If `reduce_range` is left out, the processor that builds decides
    it, and a note records the choice: an INT8 artifact suits one family of processors.
    """

    kind: ClassVar[str] = "int8"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    mode: Literal["static", "dynamic"] = "static"
    samples: int = Field(default=512, ge=1)
    """How many validation samples calibrate; at most half of them, where others are held out."""
    method: Literal["minmax", "entropy", "percentile", "auto"] = "minmax"
    """How ranges are found (static). `auto` tries all, and takes the one whose graph puts most of
    the held-out samples into the class that the FP32 graph does."""
    held_out: int = Field(default=1000, ge=1)
    """How many validation samples compare graphs, at most: for `auto` and `max_drop`."""
    max_drop: float | None = Field(default=None, ge=0, le=1)
    """Accuracy that may be lost on the held-out samples, as a share: 0.005 is half a point."""
    exclude: tuple[str, ...] = ()
    per_channel: bool = True
    reduce_range: bool | None = None
    seed: int = 0

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a quantised graph, which from here on is the model."""
        calibrating, held_out = self._divide(data.validation)
        exported = export(state.network, calibrating.samples, state.interface)
        model = name_weights(exported, state.network)
        if self.mode == "dynamic":
            _require_few_convolutions(state.network, rows(calibrating.samples, slice(0, 1)))
        layers, notes = self._choose(model)
        comparator = None
        if held_out is not None:
            scores = state.interface.outputs[0].name
            comparator = GraphComparator(model.SerializeToString(), held_out, scores)
        with tempfile.TemporaryDirectory() as folder:
            writers = self._writers(model, calibrating.samples, Path(folder), progress)
            graph, decided = self._decide(writers, layers, comparator, progress)
        return replace(
            state,
            graph=graph,
            conversion=Conversion(self, state),
            notes=(
                *state.notes,
                self._describe(count(calibrating.samples)),
                *notes,
                *decided,
                *unpacked_notes(state),
            ),
        )

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Let the network round its weights and inputs as the graph of `converted` does."""
        assert converted.graph is not None
        weight_format = self.weight_format(hardware(1).flags)
        return simulate_quantization(network, read_grids(converted.graph), weight_format)

    def weight_format(self, flags: Collection[str]) -> WeightFormat:
        """Return how weights are stored on a processor with these flags (`Hardware.flags`)."""
        reduce_range = saturates(flags) if self.reduce_range is None else self.reduce_range
        return WeightFormat(self.per_channel, reduce_range)

    def describe_weights(self, flags: Collection[str]) -> str:
        """Return the note on the weights' bits, with what they cost on this processor."""
        if self.weight_format(flags).reduce_range:
            return "weights of 7 bits"
        if saturates(flags):
            return "weights of 8 bits, which take longer than 7 on this processor: it lacks VNNI"
        return "weights of 8 bits"

    def _describe(self, number: int) -> str:
        weights = self.describe_weights(hardware(1).flags)
        if self.mode == "dynamic":
            return f"{weights}; ranges of activations from each request"
        return f"{weights}; {number} calibration samples"

    def _divide(self, validation: Split) -> tuple[Split, Split | None]:
        """Draw the samples that calibrate, and others that compare graphs where any are to be."""
        is_auto = self.mode == "static" and self.method == "auto"
        if not is_auto and self.max_drop is None:
            (calibrating,) = validation.draw(self.seed, self.samples)
            return calibrating, None
        if len(validation) < 2:
            raise ValueError(
                "graphs are compared on validation samples that gave no ranges: two at least"
            )
        number = min(self.samples, len(validation) // 2)
        calibrating, held_out = validation.draw(self.seed, number, self.held_out)
        return calibrating, held_out

    def _choose(self, model: onnx.ModelProto) -> tuple[list[QuantizableLayer], tuple[str, ...]]:
        found, notes = find_layers(model)
        if self.mode == "dynamic":
            notes += tuple(
                f"layer {layer.name} stays in FP32: a convolution, which has no dynamic kernel"
                for layer in found
                if layer.operator == "Conv"
            )
        for pattern in self.exclude:
            if not any(is_excluded(layer, (pattern,)) for layer in found):
                names = ", ".join(layer.name for layer in found)
                raise ValueError(f"exclude: no layer is called {pattern!r}; there are {names}")
        if self.mode == "dynamic":
            found = [layer for layer in found if layer.operator != "Conv"]
        left = [layer for layer in found if is_excluded(layer, self.exclude)]
        layers = [layer for layer in found if layer not in left]
        if not layers:
            reason = "; ".join(notes) or "all are excluded, or there is none"
            raise ValueError(f"there is no layer to quantise: {reason}")
        return layers, (*notes, *(f"layer {one.name} stays in FP32: as told" for one in left))

    def _writers(
        self, model: onnx.ModelProto, samples: Samples, folder: Path, progress: Progress
    ) -> dict[str, GraphWriter]:
        """Return what writes the graph, by the calibrator that it heeds."""
        weight_format = self.weight_format(hardware(1).flags)
        if self.mode == "dynamic":
            return {"dynamic": partial(write_dynamic, model, weight_format=weight_format)}
        methods: Iterable[Method] = METHODS if self.method == "auto" else (self.method,)
        return {
            method: partial(
                write_static,
                model,
                weight_format=weight_format,
                ranges=calibrate(model, samples, method, folder, progress),
                method=method,
            )
            for method in methods
        }

    def _decide(
        self,
        writers: Mapping[str, GraphWriter],
        layers: Sequence[QuantizableLayer],
        comparator: GraphComparator | None,
        progress: Progress,
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the graph, and notes on what was compared."""
        write: GraphWriter = next(iter(writers.values()))
        notes: tuple[str, ...] = ()
        if comparator is None:
            return write(layers), notes
        if len(writers) > 1:
            name, note = choose_by_agreement(writers, layers, comparator)
            write, notes = writers[name], (note,)
        if self.max_drop is None:
            return write(layers), notes
        kept = limit_accuracy_drop(self.max_drop, layers, write, comparator, progress)
        return kept.graph, (*notes, *kept.describe())


def _require_few_convolutions(network: nn.Module, sample: Samples) -> None:
    share = convolution_share(network, sample)
    if share > _MAX_CONVOLUTION_SHARE:
        raise ValueError(
            f"convolutions do {share:.0%} of the multiplications, and have no dynamic INT8 kernel "
            "worth its time: use mode: static"
        )
