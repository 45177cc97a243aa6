"""Runs ONNX variants with onnxruntime on the CPU. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from variants import artifact
from variants.catalog import Variant
from variants.runners import Runner, Tensors

FILE = "model.onnx"
_ERRORS = 3
"""onnxruntime's severity: the GPU wheel warns of every GPU that is not there."""


class OnnxRunner:
    """A loaded ONNX model. Threads do not spin while they wait: replicas share the machine."""

    def __init__(self, model: Path | bytes, *, threads: int) -> None:
        """Load a model file; of one given as bytes onnxruntime keeps a second copy in memory."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Compute one batch."""
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


def load_onnx(folder: Path, variant: Variant, *, threads: int) -> Runner:
    """Load the `model.onnx` of the variant in `folder`, its hash checked."""
    file = next((file for file in variant.files if file.name == FILE), None)
    if file is None:
        raise ValueError(f"{folder}: the variant lists no {FILE}")
    artifact.read(folder, file)
    return OnnxRunner(folder / FILE, threads=threads)
