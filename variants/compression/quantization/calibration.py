"""The range of each activation, from samples, kept in a file that many quantisations can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from rich.progress import Progress

from variants.compression.quiet import quiet
from variants.model.dataset import Samples, count, rows

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]

METHODS: Final[Mapping[Method, tuple[CalibrationMethod, Mapping[str, Any]]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 1024, "num_quantized_bins": 128}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.99, "symmetric": False}),
}
"""onnxruntime's calibrators. Its own defaults leave entropy a single candidate, which is the whole
range, and give the outputs of a Relu a range as far below zero as above it: half would be lost."""

OPERATORS: Final = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""Whose inputs and outputs have ranges."""

_BATCH: Final = 8


def calibrate(
    model: onnx.ModelProto, samples: Samples, method: Method, folder: Path, progress: Progress
) -> Path:
    """Run the model on the samples; return the file in `folder` that holds the ranges found.

    It is what `onnxruntime.quantization.quantize_static` takes as its `calibration_cache_path`.
    """
    source, ranges = folder / f"{method}.onnx", folder / f"{method}.json"
    onnx.save(model, source)
    kind, options = METHODS[method]
    with quiet():
        calibrator = create_calibrator(
            source,
            OPERATORS,
            augmented_model_path=str(folder / f"{method}-augmented.onnx"),
            calibrate_method=kind,
            extra_options=dict(options),
        )
        starts = range(0, count(samples), _BATCH)
        for start in progress.track(starts, description=f"calibration by {method}"):
            # A batch a time: a calibrator keeps every activation of what it is handed in memory.
            calibrator.collect_data(_Reader(rows(samples, slice(start, start + _BATCH))))
        save_tensors_data(calibrator.compute_data(), ranges)
    return ranges


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands one batch to onnxruntime, then None."""

    def __init__(self, batch: Samples) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = iter([dict(batch)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)
