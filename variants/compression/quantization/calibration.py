"""Activation ranges, measured on samples and stored in a file that static quantization reads."""

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
"""onnxruntime's calibrators with their options.

With onnxruntime's default options, `entropy` has a single candidate, the whole range, and
`percentile` gives the output of a Relu a symmetric range, half of which is never used.
"""

OPERATORS: Final = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""Operators whose inputs and outputs get ranges."""

_BATCH_SIZE: Final = 8
"""Samples in a batch. A calibrator keeps all activations of a batch in memory."""


def calibrate(
    model: onnx.ModelProto, samples: Samples, method: Method, folder: Path, progress: Progress
) -> Path:
    """Run the model on the samples and return the file in `folder` that holds the ranges.

    The file is the `calibration_cache_path` of `onnxruntime.quantization.quantize_static`.
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
        starts = range(0, count(samples), _BATCH_SIZE)
        for start in progress.track(starts, description=f"calibration by {method}"):
            batch = rows(samples, slice(start, start + _BATCH_SIZE))
            calibrator.collect_data(_SingleBatchReader(batch))
        save_tensors_data(calibrator.compute_data(), ranges)
    return ranges


class _SingleBatchReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Returns one batch to onnxruntime, then None."""

    def __init__(self, batch: Samples) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = iter([dict(batch)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)
