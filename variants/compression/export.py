"""A torch network as an ONNX model: one file, dynamic batch, and proven equal to the original.

Uses torch's dynamo exporter. What it writes about this machine (stack traces with paths) is
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
from variants.model.state import Interface
from variants.runtime.onnx import OnnxRunner

TOLERANCE = 1e-4
"""Largest difference of an output from torch's, relative to the largest output (FP32 rounding)."""
_CHECKED_SAMPLES: Final = 16
_FAILED: Final = (onnxruntime.Fail, onnxruntime.InvalidArgument, onnxruntime.RuntimeException)
_WHERE: Final = "The following call raised this error:"  # in torch's message, before the place


def export(network: nn.Module, samples: Samples, interface: Interface) -> onnx.ModelProto:
    """Export a network, and check onnxruntime's answers on `samples` against it.

    They are checked together, and the first alone with its variable dimensions halved. Raises
    `ValueError` if it cannot be exported, or an answer differs by more than `TOLERANCE`.
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
        raise ValueError(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    assert program is not None  # only the exporter that dynamo replaced returns None
    model = _without_traces(program.model_proto)
    runner = OnnxRunner(model.SerializeToString(), threads=1)
    for given in (checked, shortened(rows(checked, slice(0, 1)), interface.axes)):
        try:
            _require_equal(network, runner, given, interface)
        except (ValueError, *_FAILED) as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in given.items())
            raise ValueError(f"exported, the model fails for {shapes}: {error}") from error
    return model


def _require_equal(
    network: nn.Module, runner: OnnxRunner, given: Samples, interface: Interface
) -> None:
    with torch.inference_mode():
        expected = outputs(network, tensors(given))
    actual = runner(given)
    for spec, one in zip(interface.outputs, expected, strict=True):
        off = _difference(actual[spec.name], one.numpy())
        if not off <= TOLERANCE:
            raise ValueError(f"{spec.name!r} differs from torch by {off:.1e} of its size")


def _difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference over the largest finite value; equal infinities are equal."""
    if actual.shape != expected.shape:
        return np.inf
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    differ = ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    return float(np.abs(ours[differ] - theirs[differ]).max(initial=0.0) / (largest or 1.0))


def _cause(error: BaseException) -> str:
    """Return what went wrong at the bottom, and where: the exporter wraps it many times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
    if "data-dependent" in why:
        why = f"forward must do the same whatever the values of its inputs are: {why}"
    if _WHERE in lines:
        after = lines.index(_WHERE) + 1
        why = f"{why}; {': '.join(lines[after : after + 2])}"
    return why


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop notes about how the graph was made; shapes too, which quantisation then infers anew."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    return model
