"""What a pruned network should compute: the original, with no layer reading what was removed."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def network_without_readers(original: nn.Module, pruned: nn.Module) -> nn.Module | None:
    """Return a copy of the original in which no layer reads the channels that `pruned` lacks.

    The columns that are left in `pruned` are found by their values. Returns None if that is not
    possible, because weights are equal. Raises `ValueError` if `pruned` holds other weights.
    """
    reference = copy.deepcopy(original)
    smaller = dict(pruned.named_modules(remove_duplicate=False))
    for name, module in reference.named_modules(remove_duplicate=False):
        if not isinstance(module, _READERS):
            continue
        left = smaller[name].get_parameter("weight").detach().float().numpy()
        weight = module.weight.detach().float().numpy()
        if left.shape[1] == weight.shape[1]:
            continue
        columns = _kept_columns(weight, left)
        if columns is None:
            return None
        removed = np.setdiff1d(np.arange(weight.shape[1]), columns)
        with torch.no_grad():
            module.weight[:, torch.from_numpy(removed)] = 0
    return reference


def _kept_columns(
    weight: NDArray[np.floating], left: NDArray[np.floating]
) -> NDArray[np.int64] | None:
    """Return the columns of `weight`, `[out, in, ...]`, that are left; None if that is unclear."""
    values, places = np.unique(weight, return_inverse=True)
    if len(values) < weight.size:
        return None
    first = np.searchsorted(values, left.reshape(-1))
    if not np.array_equal(values[np.minimum(first, len(values) - 1)], left.reshape(-1)):
        raise ValueError("the pruned network holds other weights than the original")
    position = np.empty(weight.size, np.int64)
    position[places.reshape(-1)] = np.arange(weight.size)
    columns = np.unravel_index(position[first], weight.shape)[1].reshape(left.shape)
    kept: NDArray[np.int64] = columns.swapaxes(0, 1).reshape(left.shape[1], -1)[:, 0]
    if not (columns.swapaxes(0, 1).reshape(left.shape[1], -1) == kept[:, None]).all():
        raise ValueError("a column of the pruned network has weights of several columns")
    return kept
