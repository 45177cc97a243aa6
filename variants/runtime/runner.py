"""Runners: callables that execute a variant on named arrays. `load_runner` selects the runtime.

This module imports neither torch nor onnxruntime, so a host imports only the one it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from variants.catalog.catalog import Model, Variant
from variants.catalog.kernels import KernelTable

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Runner: TypeAlias = Callable[[Tensors], dict[str, NDArray[Any]]]
"""Maps the inputs of a batch to its outputs, both by name. The first dimension is the batch."""


def load_runner(
    catalog: Path,
    model: Model,
    variant: Variant,
    *,
    threads: int,
    kernels: KernelTable | None = None,
) -> Runner:
    """Load a variant of the catalog in this folder, with this number of compute threads.

    `kernels` are the kernels of its sparse layers; by default those of its report card for this
    hardware, and measured now if there is none. Verifies the hash of every file. Raises
    `ValueError` with the missing or damaged file. The torch runner sets the number of threads for
    the whole process.
    """
    return load_artifact(catalog / variant.name, model, variant, threads=threads, kernels=kernels)


def measure_kernels(
    catalog: Path, model: Model, variant: Variant, *, threads: int
) -> KernelTable | None:
    """Time the kernels of a variant's sparse layers on this machine.

    Returns None for a variant that does not run in torch.
    """
    if variant.runner != "torch":
        return None
    from variants.runtime.torch import measure_torch_kernels

    return measure_torch_kernels(catalog / variant.name, model, variant, threads=threads)


def load_artifact(
    folder: Path,
    model: Model,
    variant: Variant,
    *,
    threads: int,
    kernels: KernelTable | None = None,
) -> Runner:
    """Load a variant whose files are in `folder`, such as one of its generations.

    Otherwise like `load_runner`.
    """
    match variant.runner:
        case "onnx":
            from variants.runtime.onnx import load_onnx

            return load_onnx(folder, variant, threads=threads)
        case "torch":
            from variants.runtime.torch import load_torch

            return load_torch(folder, model, variant, threads=threads, kernels=kernels)
