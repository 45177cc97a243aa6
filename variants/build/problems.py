"""Problems of networks, datasets and scores that a user provides, as sentences.

Each function returns a list of sentences, which is empty if there is no problem. All functions are
pure.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from variants.catalog.datatype import DATATYPE
from variants.measurement.evaluation import accuracy
from variants.model.dataset import Datasets, Samples, Split

MAX_SCORE_CHANGE: Final = 1e-3
"""Largest change of a score with its batch, relative to the largest score (FP32 rounding)."""


def splits(datasets: Datasets) -> Iterator[tuple[str, Split]]:
    """Yield the three splits with their names."""
    yield "train", datasets.train
    yield "validation", datasets.validation
    yield "test", datasets.test


def network_problems(network: nn.Module) -> list[str]:
    """Check that the network's weights can be changed and that the network can be copied."""
    if computed := [name for name, module in network.named_modules() if _computes_weights(module)]:
        return [
            f"network() has layers that compute their weights from others: {', '.join(computed)}; "
            f"call remove_parametrizations (or remove_weight_norm) in network(), and save the "
            f"plain weights"
        ]
    try:
        copy.deepcopy(network)
    except Exception as error:  # code of the user may raise any exception
        return [
            f"the network cannot be copied ({error}), and techniques change copies of it; its "
            f"modules may hold parameters, buffers and plain values, but no computed tensors"
        ]
    return []


def data_problems(datasets: Datasets) -> list[str]:
    """Check that inputs have a datatype that networks accept, and that all numbers are finite."""
    return [
        problem
        for name, split in splits(datasets)
        for key, array in split.samples.items()
        for problem in _array_problems(f"input {key!r} of {name}", array)
    ]


def label_problems(datasets: Datasets, classes: int) -> list[str]:
    """Check that every label is the number of a class, 0 to `classes` - 1."""
    return [
        f"the labels of {name} are {split.labels.min()} to {split.labels.max()}, but the network "
        f"returns {classes} scores: labels must be 0 to {classes - 1}"
        for name, split in splits(datasets)
        if split.labels.min() < 0 or split.labels.max() >= classes
    ]


def overlap_warnings(datasets: Datasets) -> list[str]:
    """Find samples of the test split that are also in another split."""
    digests = {name: set(_digests(split.samples)) for name, split in splits(datasets)}
    test = list(_digests(datasets.test.samples))
    return [
        f"{shared:,} of {len(test):,} test samples are also in {name}, byte for byte: "
        f"accuracy on them is not meaningful"
        for name in ("train", "validation")
        if (shared := sum(digest in digests[name] for digest in test))
    ]


def score_problems(together: NDArray[Any], alone: NDArray[Any]) -> list[str]:
    """Check the scores `[n, classes]` of a few samples, computed in one batch and one by one."""
    if together.ndim != 2 or len(together) != len(alone) or together.shape[1] < 2:
        return [
            f"the network's first output must be scores [n, classes], a row for each of "
            f"{len(alone)} samples, got {list(together.shape)}"
        ]
    if together.dtype.kind != "f":
        return [
            f"the network's first output must be floating-point scores, got {together.dtype}: "
            f"return the scores before any argmax"
        ]
    if not np.isfinite(together).all():
        return ["the network's scores contain NaN or infinity"]
    change = float(np.abs(together - alone).max()) / (float(np.abs(alone).max()) or 1.0)
    if not change <= MAX_SCORE_CHANGE:  # NaN too
        return [
            f"the scores of a sample change by {change:.1e} of their size with the batch it is "
            f"in, or from call to call: in evaluation mode, the network must not be random and "
            f"must not mix samples"
        ]
    return []


def accuracy_warnings(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> list[str]:
    """Check that a network is better than always predicting the commonest class, at 95 %."""
    share, commonest = accuracy(predictions, labels), np.bincount(labels).argmax()
    always = float((labels == commonest).mean())
    if share.low > always:
        return []
    return [
        f"{share.value:.1%} of {len(labels)} validation samples are right, and always predicting "
        f"class {commonest} would be right for {always:.1%}: check that the weights are trained, "
        f"that labels are in the network's order, and that inputs are scaled as in training"
    ]


def _computes_weights(module: nn.Module) -> bool:
    """Return whether torch computes a weight in each call, as with old or new weight_norm."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(
        type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks
    )


def _array_problems(where: str, array: NDArray[Any]) -> list[str]:
    if array.dtype not in DATATYPE or array.dtype.kind == "O":
        return [f"{where} is {array.dtype}: inputs must be numbers, such as float32 or int64"]
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return []
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return [
        f"{where} contains NaN or infinity in {bad.sum():,} of {len(array):,} samples, first in "
        f"sample {bad.argmax()}"
    ]


def _digests(samples: Samples) -> Iterator[bytes]:
    """Yield a digest of each sample, over all its inputs."""
    for row in zip(*(map(np.ascontiguousarray, array) for array in samples.values()), strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for array in row:
            digest.update(array.tobytes())
        yield digest.digest()
