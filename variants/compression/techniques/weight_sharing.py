"""Weight sharing: stores each weight tensor as a codebook and small codes into it."""

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

from variants.compression.export import export_state
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
    """Stores each weight tensor of the exported graph as codes into `values` shared values.

    k-means finds the shared values, as in Han, Mao and Dally 2015 (arXiv:1510.00149), section 3;
    the training of the shared values and the Huffman coding of the paper are left out. The file
    shrinks to an eighth with up to 16 values and to a quarter with more. Once loaded, the model is
    dense and as fast as the dense variant. Zeros stay zero. Vectors, such as biases and
    normalization weights, are too small to gain and are stored as they are.
    """

    kind: ClassVar[str] = "weight-sharing"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    values: int = Field(default=256, ge=2, le=MAX_VALUES)
    """Largest number of distinct values in a tensor."""
    start: KMeansStart = "quantile"
    """Initial values of k-means: evenly spaced over the ranks of the weights, or their range."""
    exclude: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of layer names to skip, such as `head` or `blocks.0.*`.

    If a module holds several matrices, each has the name of its parameter: `attn.in_proj_weight`.
    """

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with a graph of codes, which is the model from here on.

        Raises `ValueError` if no weight becomes smaller, or if `exclude` matches no layer.
        """
        network = state.network
        exported = export_state(state, data.validation.samples)
        model = name_weights(exported, network)
        weights = self._choose(model, network)
        codebooks = {
            name: make_codebook(numpy_helper.to_array(weights[name]), self.values, self.start)
            for name in progress.track(weights, description="sharing weights")
        }
        coded = store_codebooks(model, codebooks)
        shared = find_codebooks(coded.graph)
        if not shared:
            raise ValueError(
                f"{self.kind} found no weight that codes make smaller: all are excluded or "
                "too small"
            )
        error = _relative_error([(weights[name], codebooks[name]) for name in shared])
        note = (
            f"weights stored as codes: {len(shared)}, of at most {self.values} values each; "
            f"relative root mean square error {error:.2%}"
        )
        return replace(
            state,
            graph=coded.SerializeToString(deterministic=True),
            notes=(*state.notes, *unpacked_notes(state), note),
        )

    def _choose(self, model: onnx.ModelProto, network: nn.Module) -> dict[str, onnx.TensorProto]:
        """Return the FP32 weights of the graph by parameter name, without the excluded ones."""
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
                names = ", ".join(map(layer_name, weights))
                raise ValueError(f"exclude: {pattern!r} matches no layer; the layers are {names}")
            excluded |= named
        return {name: weight for name, weight in weights.items() if name not in excluded}


def _relative_error(pairs: list[tuple[onnx.TensorProto, Codebook]]) -> float:
    """Return the root mean square error of the shared values over that of the weights."""
    error = total = 0.0
    for tensor, codebook in pairs:
        weight = numpy_helper.to_array(tensor).astype(np.float64)
        error += float(np.square(weight - codebook.decode()).sum())
        total += float(np.square(weight).sum())
    return float(np.sqrt(error / total)) if total else 0.0
