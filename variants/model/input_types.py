"""Finds the types of inputs that a network accepts, for the error about those that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from variants.model.dataset import Samples
from variants.model.forward import outputs, tensors

_CANDIDATES: Final = (np.dtype(np.float32), np.dtype(np.int64))
_MAX_TRIALS: Final = 27
"""Largest number of combinations that are tried: those of three inputs."""


def accepted_types(network: nn.Module, samples: Samples) -> str:
    """Return which inputs must be converted to which type, as a sentence; "" if that is no help."""
    if _accepts(network, samples):
        return ""
    for changed in islice(_conversions(samples), _MAX_TRIALS):
        if not _accepts(network, changed):
            continue
        steps = [
            f"{name!r} from {samples[name].dtype} to {array.dtype} (.astype(np.{array.dtype}))"
            for name, array in changed.items()
            if array.dtype != samples[name].dtype
        ]
        return f"convert {' and '.join(steps)} in datasets()"
    return ""


def _accepts(network: nn.Module, samples: Samples) -> bool:
    try:
        with torch.inference_mode():
            outputs(network, tensors(samples))
    except Exception:  # code of the user may raise any exception
        return False
    return True


def _conversions(samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the samples with inputs of other types, the fewest changes first."""
    options = [
        (array.dtype, *(kind for kind in _CANDIDATES if kind != array.dtype))
        for array in samples.values()
    ]
    own = tuple(array.dtype for array in samples.values())
    types = [each for each in product(*options) if each != own]
    types.sort(key=lambda each: sum(a != b for a, b in zip(each, own, strict=True)))
    for each in types:
        yield {
            name: array.astype(kind)
            for (name, array), kind in zip(samples.items(), each, strict=True)
        }
