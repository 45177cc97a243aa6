"""Checks of tensors that were read from a file."""

from __future__ import annotations

import torch
from torch import Tensor


def require(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a tensor has this dtype and shape."""
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(
            f"expected {name} {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )
