"""Exports a torch network to ONNX, with dynamic batch, and checks its outputs against torch.

The export uses torch's dynamo exporter. Metadata on the machine (stack traces with paths) is
removed, so that equal networks give equal bytes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime
from torch import nn

from variants.compression.quiet import quiet
from variants.model.dataset import Samples, rows, shortened
from variants.model.forward import outputs, tensors
from variants.model.state import CompressionState, Interface
from variants.runtime.onnx import OnnxRunner

TOLERANCE = 1e-4
"""Largest difference of an output from torch's, relative to the largest output (FP32 rounding)."""
_CHECKED_SAMPLES: Final = 16
"""Number of samples whose outputs are checked."""
_ONNXRUNTIME_ERRORS: Final = (
    onnxruntime.Fail,
    onnxruntime.InvalidArgument,
    onnxruntime.RuntimeException,
)
_LOCATION_HEADER: Final = "The following call raised this error:"
"""Line of torch's message that precedes the file and the source line."""


def export_state(state: CompressionState, samples: Samples) -> onnx.ModelProto:
    """Export the network of a state, unless it is dense and the graph of dense is known."""
    if state.network is state.dense and state.dense_graph is not None:
        return onnx.load_model_from_string(state.dense_graph)
    return export(state.network, samples, state.interface)


def export(network: nn.Module, samples: Samples, interface: Interface) -> onnx.ModelProto:
    """Export a network and check onnxruntime's outputs for `samples` against torch's.

    The check runs a batch of samples, and then the first sample alone with its variable dimensions
    halved. Raises `ValueError` if the network cannot be exported or if an output differs by more
    than `TOLERANCE`.
    """
    network.eval()
    checked = rows(samples, slice(0, _CHECKED_SAMPLES))
    try:
        with quiet():
            program = torch.onnx.export(
                network,
                tensors(checked),
                dynamo=True,
                dynamic_shapes=tuple(
                    {0: "batch", **interface.axes.get(spec.name, {})} for spec in interface.inputs
                ),
                input_names=[spec.name for spec in interface.inputs],
                output_names=[spec.name for spec in interface.outputs],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"the model cannot be exported to ONNX: {_root_cause(error)}") from error
    assert program is not None  # only the older exporter returns None
    model = _strip_metadata(program.model_proto)
    runner = OnnxRunner(model.SerializeToString(), threads=1)
    for inputs in (checked, shortened(rows(checked, slice(0, 1)), interface.axes)):
        try:
            _require_equal(network, runner, inputs, interface)
        except (ValueError, *_ONNXRUNTIME_ERRORS) as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise ValueError(f"the exported model fails for {shapes}: {error}") from error
    return model


def _require_equal(
    network: nn.Module, runner: OnnxRunner, inputs: Samples, interface: Interface
) -> None:
    with torch.inference_mode():
        expected = outputs(network, tensors(inputs))
    actual = runner(inputs)
    for spec, tensor in zip(interface.outputs, expected, strict=True):
        difference = relative_difference(actual[spec.name], tensor.numpy())
        if not difference <= TOLERANCE:  # NaN too
            raise ValueError(f"{spec.name!r} differs from torch by {difference:.1e} of its size")


def relative_difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference, relative to the largest finite value.

    Equal infinities do not differ, nor do two NaN. The difference of different shapes is infinite.
    """
    if actual.shape != expected.shape:
        return np.inf
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    differ = ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return float(np.abs(actual[differ] - expected[differ]).max(initial=0.0) / (largest or 1.0))


def _root_cause(error: BaseException) -> str:
    """Return the message and the location of the root cause; the exporter wraps it many times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (
        " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
    )
    if "data-dependent" in reason:
        reason = f"control flow in forward must not depend on the values of inputs: {reason}"
    if _LOCATION_HEADER in lines:
        after = lines.index(_LOCATION_HEADER) + 1
        reason = f"{reason}; {': '.join(lines[after : after + 2])}"
    return reason


def _strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's metadata, and intermediate shapes, which quantization infers again."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    return model
