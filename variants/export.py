"""A torch network as an ONNX model: one file, dynamic batch, and proven equal to the original.

Uses torch's dynamo exporter. What it writes about this machine (stack traces with paths) is
removed, so that equal networks give equal bytes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import nn

from variants.catalog import TensorSpec
from variants.dataset import Samples
from variants.runners.onnx import OnnxRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = 1e-4
"""Largest difference of an output from torch's, relative to the largest output (FP32 rounding)."""
_CHECKED_SAMPLES = 16


def export(
    network: nn.Module,
    samples: Samples,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> onnx.ModelProto:
    """Export a network with one input, and check onnxruntime's answers on `samples` against it.

    Raises `ValueError` if the answers differ by more than `TOLERANCE`.
    """
    network = network.eval()
    example = torch.from_numpy(np.ascontiguousarray(samples[:_CHECKED_SAMPLES]))
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            verbose=False,
        )
    assert program is not None  # only the exporter that dynamo replaced returns None
    model = _without_traces(program.model_proto)
    with torch.inference_mode():
        expected = network(example).numpy()
    actual = OnnxRunner(model.SerializeToString(), threads=1)({inputs[0].name: example.numpy()})
    error = float(np.abs(actual[outputs[0].name] - expected).max() / np.abs(expected).max())
    if not error <= TOLERANCE:
        raise ValueError(f"the exported model differs from torch by {error:.1e} of its output")
    return model


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop notes about how the graph was made; shapes too, which quantisation then infers anew."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: torch's own deprecations, and optional packages it looks for."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
