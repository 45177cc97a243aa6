"""Runners: callables that execute a variant on named arrays. `load_runner` selects the runtime.

This module imports neither torch nor onnxruntime, so a host imports only the one it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from variants.catalog.catalog import Model, Variant
from variants.catalog.device import Device
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
    device: Device = "cpu",
    kernels: KernelTable | None = None,
) -> Runner:
    """Load a variant of the catalog in this folder onto a device.

    `threads` is the number of compute threads on the CPU. `kernels` are the kernels of its sparse
    layers; by default those of its report card for this hardware, and measured now if there is
    none. Verifies the hash of every file. Raises `ValueError` with the missing or damaged file, or
    with the reason why the device cannot be used. The torch runner sets the number of threads for
    the whole process.
    """
    folder = catalog / variant.name
    return load_artifact(folder, model, variant, threads=threads, device=device, kernels=kernels)


def measure_kernels(
    catalog: Path, model: Model, variant: Variant, *, threads: int, device: Device = "cpu"
) -> KernelTable | None:
    """Time the kernels of a variant's sparse layers on this machine.

    Returns None for a variant that does not run in torch.
    """
    if variant.runner != "torch":
        return None
    from variants.runtime.torch import measure_torch_kernels

    folder = catalog / variant.name
    return measure_torch_kernels(folder, model, variant, threads=threads, device=device)


def load_artifact(
    folder: Path,
    model: Model,
    variant: Variant,
    *,
    threads: int,
    device: Device = "cpu",
    kernels: KernelTable | None = None,
) -> Runner:
    """Load a variant whose files are in `folder`, such as one of its generations.

    Otherwise like `load_runner`.
    """
    match variant.runner:
        case "onnx":
            from variants.runtime.onnx import load_onnx

            return load_onnx(folder, variant, threads=threads, device=device)
        case "torch":
            from variants.runtime.torch import load_torch

            return load_torch(
                folder, model, variant, threads=threads, device=device, kernels=kernels
            )
