"""What runs a variant: tensors in, tensors out. One file per runtime, all listed in `load_runner`.

Importing this imports neither torch nor onnxruntime: a host loads only what its variant needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from variants.catalog.catalog import Model, Variant

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Runner: TypeAlias = Callable[[Tensors], dict[str, NDArray[Any]]]
"""Computes a batch: inputs by name to outputs by name, the first dimension being the batch."""


def load_runner(catalog: Path, model: Model, variant: Variant, *, threads: int) -> Runner:
    """Load a variant of the catalog in this folder, to compute with this many threads.

    Every file is checked against its hash first. Raises `ValueError` that names the file which is
    missing or damaged. For the torch runner the number of threads holds for the whole process.
    """
    folder = catalog / variant.name
    match variant.runner:
        case "onnx":
            from variants.runtime.onnx import load_onnx

            return load_onnx(folder, variant, threads=threads)
        case "torch":
            from variants.runtime.torch import load_torch

            return load_torch(folder, model, variant, threads=threads)
