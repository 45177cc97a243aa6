"""The GPU in torch: whether there is one, its arithmetic, and its name for tables and caches."""

from __future__ import annotations

import torch

from variants.catalog.device import gpu_names


def require_cuda() -> torch.device:
    """Return torch's CUDA device, with TF32 off: FP32 then means the same on every device.

    Raises `ValueError` with what is missing if torch cannot use a GPU.
    """
    if not torch.cuda.is_available():
        reason = (
            "is built without CUDA; install a build with it (docs/techniques.md#gpus)"
            if torch.version.cuda is None
            else f"is built for CUDA {torch.version.cuda} and finds no GPU that it can use; GPUs "
            f"that the driver names: {', '.join(gpu_names()) or 'none'}"
        )
        raise ValueError(
            f"the device `cuda` cannot be used: torch {torch.__version__} {reason}; or use the "
            "device `cpu`"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def cusparselt_version() -> str:
    """Return the name and version of cuSPARSELt as torch uses it; "" if there is none."""
    if not torch.backends.cusparselt.is_available():
        return ""
    return f"cuSPARSELt {torch.backends.cusparselt.version()}"


def describe_gpu() -> str:
    """Return the name of the GPU and the version of cuSPARSELt, for tables of kernels."""
    return f"{torch.cuda.get_device_name()}, {cusparselt_version() or 'no cuSPARSELt'}"
