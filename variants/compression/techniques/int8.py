"""INT8 quantization by onnxruntime: unsigned activations, signed weights (U8S8)."""

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
from variants.compression.export import export_state
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
    equal_parameters,
    find_layers,
    is_excluded,
    name_weights,
)
from variants.compression.quantization.sharing import unshare
from variants.compression.quantization.writing import WeightFormat, write_dynamic, write_static
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Samples, Split, TrainingData, count, rows
from variants.model.state import CompressionState, Conversion, Stage, unpacked_notes
from variants.runtime.saturation import saturates
from variants.runtime.sparse.forms import is_2_of_4

_MAX_CONVOLUTION_SHARE: Final = 0.5
"""Largest share of multiplications in convolutions that dynamic mode accepts."""


class Int8(Technique):
    """Quantizes the layers of the exported graph: convolutions, Linear layers and embeddings.

    `static` mode fixes the ranges of activations beforehand, from validation samples (calibration).
    `dynamic` mode computes them in each request, which suits transformers; it has no kernel for
    convolutions. Excluded layers stay in FP32. With `max_drop`, so do the layers that lose the most
    accuracy when quantized alone, until the accuracy of the INT8 graph is at most `max_drop` below
    that of the FP32 graph, both measured on validation samples that were not used for calibration.
    The notes name the layers that stay in FP32.

    After `sparse-n:m`, `dynamic` keeps the packing of 2:4 layers: sparse kernels with 8-bit weights
    compute them, and all other layers stay in FP32. If the INT8 graph is faster, it is served
    instead (see `packing` of `sparse-n:m`). `max_drop` is checked with the graph.

    x86 processors without VNNI add pairs of products in 16 bits, which 8-bit weights can saturate;
    `OnnxRunner` computes such products exactly, but more slowly than those of 7-bit weights
    (`reduce_range`). An INT8 artifact is therefore best suited to one family of processors.
    """

    kind: ClassVar[str] = "int8"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    mode: Literal["static", "dynamic"] = "static"
    """Whether ranges of activations are calibrated or computed in each request."""
    samples: int = Field(default=512, ge=1)
    """Number of validation samples for calibration; at most half of the split if others are held
    out."""
    method: Literal["minmax", "entropy", "percentile", "auto"] = "minmax"
    """Calibration method in static mode. `auto` tries all methods and takes the one whose graph
    agrees with the FP32 graph on the class of the most held-out samples."""
    held_out: int = Field(default=1000, ge=1)
    """Largest number of validation samples on which `auto` and `max_drop` compare graphs."""
    max_drop: float | None = Field(default=None, ge=0, le=1)
    """Largest drop in accuracy on the held-out samples, as a share: 0.005 is half a point."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names that stay in FP32, such as `head` or `blocks.0.*`."""
    per_channel: bool = True
    """Whether each output channel of a weight has its own scale."""
    reduce_range: bool | None = None
    """Whether weights get 7 bits instead of 8. Unset, they do if the building machine has no
    VNNI; the notes state the result."""
    seed: int = 0
    """Seed of the choice of samples."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a quantized graph, which is the model from here on.

        Raises `ValueError` if no layer can be quantized, if `exclude` matches no layer, or if
        convolutions dominate and the mode is dynamic.
        """
        calibration, held_out = self._divide(data.validation)
        exported = export_state(state, calibration.samples)
        model = unshare(name_weights(exported, state.network), equal_parameters(state.network))
        if self.mode == "dynamic":
            _require_few_convolutions(state.network, rows(calibration.samples, slice(0, 1)))
        layers, notes = self._choose(model)
        comparator = None
        if held_out is not None:
            scores = state.interface.outputs[0].name
            comparator = GraphComparator(model.SerializeToString(), held_out, scores)
        with tempfile.TemporaryDirectory() as folder:
            writers = self._writers(model, calibration.samples, Path(folder), progress)
            graph, quantized, decided = self._decide(writers, layers, comparator, progress)
        packed = self._packed(state, quantized)
        return replace(
            state,
            graph=graph,
            quantized=frozenset(packed),
            conversion=Conversion(self, state),
            notes=(
                *state.notes,
                ("INT8 graph: " if packed else "") + self._describe(count(calibration.samples)),
                *notes,
                *decided,
                *(() if packed else unpacked_notes(state)),
            ),
        )

    def simulate(
        self, network: nn.Module, converted: CompressionState
    ) -> AbstractContextManager[None]:
        """Return a context in which the network rounds like the graph of `converted`."""
        assert converted.graph is not None
        weight_format = self.weight_format(hardware(1).flags)
        return simulate_quantization(network, read_grids(converted.graph), weight_format)

    def weight_format(self, flags: Collection[str]) -> WeightFormat:
        """Return how weights are stored on a processor with these flags (`Hardware.flags`)."""
        reduce_range = saturates(flags) if self.reduce_range is None else self.reduce_range
        return WeightFormat(self.per_channel, reduce_range)

    def describe_weights(self, flags: Collection[str]) -> str:
        """Return the note on the bits of weights, and whether they are slow on such a processor."""
        if self.weight_format(flags).reduce_range:
            return "weights of 7 bits"
        if saturates(flags):
            return (
                "weights of 8 bits, which are slower than 7 on this processor, since it lacks VNNI"
            )
        return "weights of 8 bits"

    def _describe(self, number: int) -> str:
        weights = self.describe_weights(hardware(1).flags)
        if self.mode == "dynamic":
            return f"{weights}; ranges of activations are computed in each request"
        return f"{weights}; {number} calibration samples"

    def _divide(self, validation: Split) -> tuple[Split, Split | None]:
        """Return the calibration samples, and the held-out samples if graphs are to be compared."""
        is_auto = self.mode == "static" and self.method == "auto"
        if not is_auto and self.max_drop is None:
            (calibration,) = validation.draw(self.seed, self.samples)
            return calibration, None
        if len(validation) < 2:
            raise ValueError(
                "comparing graphs needs validation samples that are not used for calibration: "
                f"at least 2 in total, got {len(validation)}"
            )
        number = min(self.samples, len(validation) // 2)
        calibration, held_out = validation.draw(self.seed, number, self.held_out)
        return calibration, held_out

    def _choose(self, model: onnx.ModelProto) -> tuple[list[QuantizableLayer], tuple[str, ...]]:
        layers_found, notes = find_layers(model)
        if self.mode == "dynamic":
            notes += tuple(
                f"layer {layer.name} stays in FP32: convolutions have no dynamic kernel"
                for layer in layers_found
                if layer.operator == "Conv"
            )
        for pattern in self.exclude:
            if not any(is_excluded(layer, (pattern,)) for layer in layers_found):
                names = ", ".join(layer.name for layer in layers_found)
                raise ValueError(f"exclude: {pattern!r} matches no layer; the layers are {names}")
        if self.mode == "dynamic":
            layers_found = [layer for layer in layers_found if layer.operator != "Conv"]
        excluded = [layer for layer in layers_found if is_excluded(layer, self.exclude)]
        layers = [layer for layer in layers_found if layer not in excluded]
        if not layers:
            reason = "; ".join(notes) or "all are excluded, or the model has none"
            raise ValueError(f"there is no layer to quantize: {reason}")
        return layers, (
            *notes,
            *(f"layer {layer.name} stays in FP32: excluded" for layer in excluded),
        )

    def _writers(
        self, model: onnx.ModelProto, samples: Samples, folder: Path, progress: Progress
    ) -> dict[str, GraphWriter]:
        """Return the functions that write a quantized graph, by calibration method."""
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
    ) -> tuple[bytes, Sequence[QuantizableLayer], tuple[str, ...]]:
        """Return the quantized graph, its INT8 layers, and notes on the comparisons."""
        write: GraphWriter = next(iter(writers.values()))
        notes: tuple[str, ...] = ()
        if comparator is None:
            return write(layers), layers, notes
        if len(writers) > 1:
            name, note = choose_by_agreement(writers, layers, comparator)
            write, notes = writers[name], (note,)
        if self.max_drop is None:
            return write(layers), layers, notes
        kept = limit_accuracy_drop(self.max_drop, layers, write, comparator, progress)
        return kept.graph, kept.quantized, (*notes, *kept.describe())

    def _packed(
        self, state: CompressionState, quantized: Sequence[QuantizableLayer]
    ) -> tuple[str, ...]:
        """Return the packed 2:4 layers whose weights can be stored in INT8."""
        if self.mode != "dynamic" or state.packing == "never":
            return ()
        names = state.packed & {layer.name for layer in quantized}
        weights = {name: state.network.get_parameter(f"{name}.weight") for name in names}
        return tuple(sorted(name for name, weight in weights.items() if is_2_of_4(weight)))


def _require_few_convolutions(network: nn.Module, sample: Samples) -> None:
    share = convolution_share(network, sample)
    if share > _MAX_CONVOLUTION_SHARE:
        raise ValueError(
            f"convolutions do {share:.0%} of the multiplications, but dynamic mode has no fast "
            "INT8 kernel for them; set mode: static"
        )
