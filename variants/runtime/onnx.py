"""Runs ONNX variants with onnxruntime on the CPU. Importing this does not import torch."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from variants.catalog import artifact
from variants.catalog.catalog import Variant
from variants.catalog.datatype import NUMPY
from variants.catalog.hardware import hardware
from variants.runtime.runner import Runner, Tensors
from variants.runtime.saturation import saturates

FILE = "model.onnx"
_ERRORS = 3
"""onnxruntime's severity: the GPU wheel warns of every GPU that is not there."""

EXACT_PRODUCTS: Final = "session.x64quantprecision"
"""onnxruntime's option that avoids saturation of U8S8 products, "0" or "1"."""

_BF16: Final = NUMPY["BF16"]
_BF16_TYPE, _BF16_NUMBER = "tensor(bfloat16)", 16
"""onnxruntime's name of it, and onnx's number for it."""

_TEXT_TYPE: Final = "tensor(string)"


def session_options(threads: int, flags: Collection[str]) -> onnxruntime.SessionOptions:
    """Return the options of every session that executes a variant.

    `threads` is the number of compute threads, `flags` are the processor's (`Hardware.flags`).

    Where 8-bit products saturate, onnxruntime converts weights outside of -64 to 64 to unsigned
    ones when it loads a model, and multiplies them exactly with slower instructions. A graph then
    computes the same on every processor. Elsewhere the conversion would only cost time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(EXACT_PRODUCTS, "1" if saturates(flags) else "0")
    return options


class OnnxRunner:
    """A loaded ONNX model. Threads do not spin while they wait: replicas share the machine.

    BYTES are strings to it: an input that is no UTF-8 fails with a `ValueError`.
    """

    def __init__(self, model: Path | bytes, *, threads: int) -> None:
        """Load a model file; of one given as bytes onnxruntime keeps a second copy in memory.

        Raises `ValueError` if it takes BYTES and gives BF16: onnxruntime can pass the one only as
        numpy arrays and the other only without them.
        """
        self._session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            session_options(threads, hardware(1).flags),
            providers=["CPUExecutionProvider"],
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        takes = {tensor.type for tensor in self._session.get_inputs()}
        gives = {tensor.type for tensor in self._session.get_outputs()}
        self._is_plain = not {_BF16_TYPE, _TEXT_TYPE} & (takes | gives)
        self._gives_bf16 = _BF16_TYPE in gives
        if self._gives_bf16 and _TEXT_TYPE in takes:
            raise ValueError("an ONNX model that takes strings cannot give bfloat16 here")

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Compute one batch."""
        if self._is_plain:
            outputs = self._session.run(None, dict(inputs))
        else:
            given = {name: _given(array) for name, array in inputs.items()}
            run = self._run_bound if self._gives_bf16 else partial(self._session.run, None)
            outputs = [_encoded(output) for output in run(given)]
        return dict(zip(self._outputs, outputs, strict=True))

    def _run_bound(self, given: dict[str, Any]) -> list[NDArray[Any]]:
        """Run without numpy in between, which onnxruntime cannot make of BF16."""
        binding = self._session.io_binding()
        for name, value in given.items():
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, value)
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return [
            _bf16(value) if value.data_type() == _BF16_TYPE else value.numpy()
            for value in binding.get_outputs_as_ortvaluevector()
        ]


def load_onnx(folder: Path, variant: Variant, *, threads: int) -> Runner:
    """Load the `model.onnx` of the variant in `folder`, its hash checked."""
    file = next((file for file in variant.files if file.name == FILE), None)
    if file is None:
        raise ValueError(f"{folder}: the variant lists no {FILE}")
    artifact.read(folder, file)
    return OnnxRunner(folder / FILE, threads=threads)


def _given(array: NDArray[Any]) -> Any:
    """Return an input as onnxruntime takes it: BYTES as text, since it would take their `repr`."""
    if array.dtype.kind == "O":
        text = [element.decode() for element in array.reshape(-1).tolist()]
        return np.array(text, array.dtype).reshape(array.shape)
    if array.dtype == _BF16:
        values = np.ascontiguousarray(array).view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(values, _BF16_NUMBER)
    return array


def _encoded(output: NDArray[Any]) -> NDArray[Any]:
    if output.dtype.kind != "O":
        return output
    elements = [text.encode() for text in output.reshape(-1).tolist()]
    return np.array(elements, output.dtype).reshape(output.shape)


def _bf16(value: Any) -> NDArray[Any]:
    """Return a copy of an output, which lives no longer than its binding."""
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, _BF16).reshape(value.shape())
