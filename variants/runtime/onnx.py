"""Runner of ONNX variants: onnxruntime on any device. This module does not import torch."""

from __future__ import annotations

import ctypes
import hashlib
import logging
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
from variants.catalog.device import Device, provider
from variants.catalog.hardware import hardware
from variants.runtime.cache import cache_folder
from variants.runtime.execution_provider import elsewhere, open_session
from variants.runtime.runner import Tensors
from variants.runtime.saturation import saturates

_LOGGER: Final = logging.getLogger(__name__)

FILE = "model.onnx"
_ERRORS = 3
"""Log severity. The GPU package of onnxruntime warns about missing GPUs."""

EXACT_PRODUCTS: Final = "session.x64quantprecision"
"""onnxruntime's option that avoids saturation of U8S8 products, "0" or "1"."""

_BF16: Final = NUMPY["BF16"]
_BF16_TYPE, _BF16_NUMBER = "tensor(bfloat16)", 16
"""Name of BF16 in onnxruntime, and its number in ONNX."""

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
    """A loaded ONNX model. Idle threads do not spin, since replicas share the machine.

    BYTES are passed as strings. Inputs that are not UTF-8 raise `ValueError`.
    """

    def __init__(
        self, model: Path | bytes, *, threads: int, device: Device = "cpu", sha256: str = ""
    ) -> None:
        """Load a model. If it is given as bytes, onnxruntime keeps a second copy in memory.

        `sha256` is the hash of the model, if it is known.

        Raises `ValueError` if onnxruntime cannot use the device, and for a model with BYTES inputs
        and BF16 outputs: onnxruntime supports strings only as numpy arrays, and BF16 only without
        numpy.
        """
        options = session_options(threads, hardware(1).flags)
        self._session = open_session(model, options, device, _engines(model, device, sha256))
        self.elsewhere = elsewhere(self._session, device)
        """On a GPU, the operators that another provider runs, by the name of that provider."""
        for other, operators in self.elsewhere.items():
            _LOGGER.warning(
                "%s does not run all of this graph; %s runs %s",
                provider("onnx", device),
                other,
                ", ".join(operators),
            )
        self._outputs = [output.name for output in self._session.get_outputs()]
        input_types = {tensor.type for tensor in self._session.get_inputs()}
        output_types = {tensor.type for tensor in self._session.get_outputs()}
        self._is_plain = not {_BF16_TYPE, _TEXT_TYPE} & (input_types | output_types)
        self._has_bf16_output = _BF16_TYPE in output_types
        if self._has_bf16_output and _TEXT_TYPE in input_types:
            raise ValueError("ONNX models with string inputs and bfloat16 outputs are unsupported")

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run one batch."""
        if self._is_plain:
            outputs = self._session.run(None, dict(inputs))
        else:
            values = {name: _ort_input(array) for name, array in inputs.items()}
            run = self._run_bound if self._has_bf16_output else partial(self._session.run, None)
            outputs = [_encode_text(output) for output in run(values)]
        return dict(zip(self._outputs, outputs, strict=True))

    def _run_bound(self, values: dict[str, Any]) -> list[NDArray[Any]]:
        """Run with bound outputs, since onnxruntime cannot convert BF16 to numpy."""
        binding = self._session.io_binding()
        for name, value in values.items():
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


def load_onnx(
    folder: Path, variant: Variant, *, threads: int, device: Device = "cpu"
) -> OnnxRunner:
    """Load the `model.onnx` of the variant in `folder` after verifying its hash."""
    file = next((file for file in variant.files if file.name == FILE), None)
    if file is None:
        raise ValueError(f"{folder}: the variant lists no {FILE}")
    artifact.read(folder, file)
    return OnnxRunner(folder / FILE, threads=threads, device=device, sha256=file.sha256)


def _engines(model: Path | bytes, device: Device, sha256: str) -> Path:
    """Return the folder of the engines of a model, which no other model shares."""
    if device == "tensorrt" and not sha256:
        content = model if isinstance(model, bytes) else model.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
    return cache_folder() / "tensorrt" / sha256


def _ort_input(array: NDArray[Any]) -> Any:
    """Convert an input for onnxruntime. BYTES become text; it would pass the `repr` of bytes."""
    if array.dtype.kind == "O":
        text = [element.decode() for element in array.reshape(-1).tolist()]
        return np.array(text, array.dtype).reshape(array.shape)
    if array.dtype == _BF16:
        values = np.ascontiguousarray(array).view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(values, _BF16_NUMBER)
    return array


def _encode_text(output: NDArray[Any]) -> NDArray[Any]:
    """Convert text outputs to BYTES."""
    if output.dtype.kind != "O":
        return output
    elements = [text.encode() for text in output.reshape(-1).tolist()]
    return np.array(elements, output.dtype).reshape(output.shape)


def _bf16(value: Any) -> NDArray[Any]:
    """Return a copy of a BF16 output, since its memory belongs to the binding."""
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, _BF16).reshape(value.shape())
