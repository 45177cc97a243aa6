"""INT8 by onnxruntime's static quantisation: QDQ, unsigned activations, signed weights (U8S8)."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from pydantic import Field
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import Progress

from variants.dataset import Material, Samples
from variants.export import export
from variants.hardware import hardware
from variants.record import Record
from variants.workpiece import Stage, Workpiece

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class Int8(Record):
    """Quantises the exported graph's Linear layers; ranges come from the validation split.

    Without VNNI, x86 adds pairs of products in 16 bits, which saturate; weights then get 7 bits
    (`reduce_range`). Left out, that is decided by the machine that builds, and noted: an INT8
    artifact belongs to a family of processors.
    """

    kind: ClassVar[str] = "int8"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.GRAPH

    samples: int = Field(default=512, ge=1)
    """How many validation samples calibrate the ranges of activations."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    per_channel: bool = True
    reduce_range: bool | None = None
    seed: int = 0

    def apply(self, workpiece: Workpiece, material: Material, progress: Progress) -> Workpiece:
        """Return the workpiece with a quantised graph, which from here on is the model."""
        validation = material.validation.samples
        count = min(self.samples, len(validation))
        chosen = np.random.default_rng(self.seed).choice(len(validation), count, replace=False)
        samples = validation[np.sort(chosen)]
        model = export(workpiece.network, samples, workpiece.inputs, workpiece.outputs)
        reduce_range = self.reduce_range
        if reduce_range is None:
            reduce_range = _VNNI_FLAGS.isdisjoint(hardware(1).flags)
        reader = _Reader(workpiece.inputs[0].name, samples, progress)
        bits = 7 if reduce_range else 8
        return replace(
            workpiece,
            graph=self._quantize(model, reader, reduce_range),
            notes=(*workpiece.notes, f"weights of {bits} bits; {count} calibration samples"),
        )

    def _quantize(self, model: onnx.ModelProto, reader: _Reader, reduce_range: bool) -> bytes:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder) / "model.onnx"
            quantize_static(
                model,
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm", "MatMul", "Relu"],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=self.per_channel,
                reduce_range=reduce_range,
                calibrate_method=_METHODS[self.method],
            )
            return path.read_bytes()


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands samples to onnxruntime one by one (histograms want equal shapes), then None."""

    def __init__(self, name: str, samples: Samples, progress: Progress) -> None:
        batches = np.split(samples, len(samples))
        self._batches = iter(progress.track(batches, description="calibration"))
        self._name = name

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime: prints, and advice to run what a graph of ours does not need.

    Progress bars stay: rich looks through its own proxy to the terminal.
    """
    disabled = logging.root.manager.disable
    terminal = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    logging.disable(logging.WARNING)
    try:
        with (
            redirect_stdout(FileProxy(Console(quiet=True), terminal)),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
