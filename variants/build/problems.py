"""What is wrong with the data that came with a model, and with its answers, in words.

Pure functions of arrays: each returns a list of sentences, empty if all is well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants.catalog.datatype import DATATYPE
from variants.measurement.evaluation import accuracy
from variants.model.dataset import Datasets, Samples, Split

TOLERANCE = 1e-3
"""How far scores may move with the batch they are in, relative to the largest: FP32 rounding."""


def splits(datasets: Datasets) -> Iterator[tuple[str, Split]]:
    """Yield the three splits with their names."""
    yield "train", datasets.train
    yield "validation", datasets.validation
    yield "test", datasets.test


def data_problems(datasets: Datasets) -> list[str]:
    """Check that the inputs are of a kind that a network takes, and that every number is one."""
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
        f"answers with {classes} scores: they must be 0 to {classes - 1}"
        for name, split in splits(datasets)
        if split.labels.min() < 0 or split.labels.max() >= classes
    ]


def overlap_warnings(datasets: Datasets) -> list[str]:
    """Find samples that are both in the test split and in another."""
    seen = {name: set(_digests(split.samples)) for name, split in splits(datasets)}
    test = list(_digests(datasets.test.samples))
    return [
        f"{shared:,} of {len(test):,} test samples are in {name} too, byte for byte: "
        f"accuracy on them is no evidence"
        for name in ("train", "validation")
        if (shared := sum(digest in seen[name] for digest in test))
    ]


def score_problems(together: NDArray[Any], alone: NDArray[Any]) -> list[str]:
    """Check the scores `[n, classes]` of a few samples, asked together and then one by one."""
    if together.ndim != 2 or len(together) != len(alone) or together.shape[1] < 2:
        return [
            f"the network's first output must be scores [n, classes], a row for each of "
            f"{len(alone)} samples, got {list(together.shape)}"
        ]
    if together.dtype.kind != "f":
        return [
            f"the network's first output must be scores, floating point, got {together.dtype}: "
            f"return them before any argmax"
        ]
    if not np.isfinite(together).all():
        return ["the network's scores hold NaN or infinity"]
    off = float(np.abs(together - alone).max()) / (float(np.abs(alone).max()) or 1.0)
    if not off <= TOLERANCE:  # NaN too
        return [
            f"the scores of a sample change by {off:.1e} of their size with the batch it is in, or "
            f"from call to call: nothing may be random, nor mix samples, in evaluation mode"
        ]
    return []


def accuracy_warnings(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> list[str]:
    """Doubt a network that is no better than always giving the commonest class, at 95 %."""
    share, commonest = accuracy(predictions, labels), np.bincount(labels).argmax()
    always = float((labels == commonest).mean())
    if share.low > always:
        return []
    return [
        f"{share.value:.1%} of {len(labels)} validation samples are right, and always answering "
        f"class {commonest} would be right for {always:.1%}: are these the trained weights, the "
        f"labels in the network's order, and the inputs scaled as in training?"
    ]


def _array_problems(where: str, array: NDArray[Any]) -> list[str]:
    if array.dtype not in DATATYPE or array.dtype.kind == "O":
        return [f"{where} is {array.dtype}: a network takes numbers, as float32 or int64"]
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return []
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return [
        f"{where} holds NaN or infinity in {bad.sum():,} of {len(array):,} samples, the first is "
        f"number {bad.argmax()}"
    ]


def _digests(samples: Samples) -> Iterator[bytes]:
    """Yield a digest of each sample, over all its inputs."""
    for row in zip(*(map(np.ascontiguousarray, array) for array in samples.values()), strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for array in row:
            digest.update(array.tobytes())
        yield digest.digest()
