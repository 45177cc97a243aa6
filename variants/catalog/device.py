"""Execution devices: where a variant runs, and what executes it there.

Imports neither torch nor onnxruntime, so that a gateway can name the hardware of its hosts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

Device: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
"""`tensorrt` is TensorRT for ONNX variants; torch variants run on CUDA there."""

DEVICES: Final[tuple[Device, ...]] = get_args(Device)

PROVIDERS: Final[Mapping[Device, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""The execution provider of onnxruntime for each device."""

DRIVER: Final = Path("/proc/driver/nvidia/gpus")
"""The folder in which the driver of NVIDIA describes each GPU."""


def provider(runtime: str, device: Device) -> str:
    """Return what executes a variant of a runtime on a device.

    That is an execution provider of onnxruntime, or `torch CPU` or `torch CUDA`.
    """
    if runtime == "onnx":
        return PROVIDERS[device]
    return "torch CPU" if device == "cpu" else "torch CUDA"


def is_gpu(device: Device) -> bool:
    """Return whether a device is a GPU."""
    return device != "cpu"


def is_on_gpu(provider: str | None) -> bool:
    """Return whether what `provider` returned computes on a GPU."""
    return provider not in (None, PROVIDERS["cpu"], "torch CPU")


def gpu_names(driver: Path = DRIVER) -> tuple[str, ...]:
    """Return the names of the kinds of NVIDIA GPUs of this machine, sorted; empty without one.

    `CUDA_VISIBLE_DEVICES` has no effect: Ray hides GPUs from processes that reserve none.
    """
    names = {_model(file) for file in driver.glob("*/information")}
    return tuple(sorted(names - {""} or set(_names_by_nvidia_smi())))


def _model(file: Path) -> str:
    """Return the value of the line `Model:` of a description by the driver; "" if it has none."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()
    return ""


@lru_cache(maxsize=1)
def _names_by_nvidia_smi() -> tuple[str, ...]:
    """Return the names that nvidia-smi prints. Some sandboxes hide the driver's folder."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in printed.stdout.splitlines() if line.strip())
