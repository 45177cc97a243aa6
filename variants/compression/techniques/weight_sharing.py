"""Weights that share few values: each tensor becomes a codebook and small codes into it."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import Field
from rich.progress import Progress
from torch import nn

from variants.compression.export import export
from variants.compression.quantization.codebook import (
    MAX_VALUES,
    Codebook,
    KMeansStart,
    make_codebook,
)
from variants.compression.quantization.layer import layer_name, name_weights
from variants.compression.quantization.shared_weights import find_codebooks, store_codebooks
from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage, unpacked_notes


class WeightSharing(Technique):
    """Stores each weight of the exported graph as codes into `values` numbers, found by k-means.

    After Han, Mao and Dally 2015 (arXiv:1510.00149), section 3, without its training of the shared
    values afterwards and without its Huffman code. The file shrinks, to an eighth with 16 values
    or fewer and to a quarter with more; once loaded, the model is dense, and as fast as dense.
    Zeros stay zeros. Vectors (biases, normalisations) are too small to gain, and keep their values.
    """

    kind: ClassVar[str] = "weight-sharing"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    values: int = Field(default=256, ge=2, le=MAX_VALUES)
    """How many different values a tensor may have."""
    start: KMeansStart = "quantile"
    """From where k-means starts: values spread evenly over the ranks, or over the range."""
    exclude: tuple[str, ...] = ()
    """Names of layers to leave alone, as patterns: `head`, `blocks.0.*`.

    A matrix of a module that holds several goes by its parameter's name: `attn.in_proj_weight`.
    """

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with a graph of codes, which from here on is the model."""
        network = state.network
        exported = export(network, data.validation.samples, state.interface)
        model = name_weights(exported, network)
        weights = self._choose(model, network)
        books = {
            name: make_codebook(numpy_helper.to_array(weights[name]), self.values, self.start)
            for name in progress.track(weights, description="sharing weights")
        }
        made = store_codebooks(model, books)
        shared = find_codebooks(made.graph)
        if not shared:
            raise ValueError(
                f"{self.kind} found no weight that codes make smaller: all are excluded, or too few"
            )
        off = _relative_error([(weights[name], books[name]) for name in shared])
        note = (
            f"weights stored as codes: {len(shared)}, of at most {self.values} values each; they "
            f"differ by {off:.2%} of their size (root mean square)"
        )
        return replace(
            state,
            graph=made.SerializeToString(deterministic=True),
            notes=(*state.notes, *unpacked_notes(state), note),
        )

    def _choose(self, model: onnx.ModelProto, network: nn.Module) -> dict[str, onnx.TensorProto]:
        """Return the FP32 weights of a graph in which they have their names, less the excluded."""
        buffers = {name for name, _ in network.named_buffers()}
        weights = {
            tensor.name: tensor
            for tensor in model.graph.initializer
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
            if tensor.name not in buffers
        }
        excluded = set()
        for pattern in self.exclude:
            named = {name for name in weights if fnmatchcase(layer_name(name), pattern)}
            if not named:
                there = ", ".join(map(layer_name, weights))
                raise ValueError(f"exclude: no layer is called {pattern!r}; there are {there}")
            excluded |= named
        return {name: weight for name, weight in weights.items() if name not in excluded}


def _relative_error(pairs: list[tuple[onnx.TensorProto, Codebook]]) -> float:
    """Return the root mean square of what the shared values differ by, over that of the weights."""
    off = whole = 0.0
    for tensor, book in pairs:
        weight = numpy_helper.to_array(tensor).astype(np.float64)
        off += float(np.square(weight - book.decode()).sum())
        whole += float(np.square(weight).sum())
    return float(np.sqrt(off / whole)) if whole else 0.0
