"""Problems of datasets and predictions that a user provides, as sentences.

Each function returns a list of sentences, which is empty if there is no problem. All functions are
pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants.catalog.datatype import DATATYPE, NUMPY
from variants.measurement.evaluation import accuracy
from variants.model.dataset import Datasets, Samples, Split


def splits(datasets: Datasets) -> Iterator[tuple[str, Split]]:
    """Yield the three splits with their names."""
    yield "train", datasets.train
    yield "validation", datasets.validation
    yield "test", datasets.test


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


def _array_problems(where: str, array: NDArray[Any]) -> list[str]:
    if array.dtype.kind == "c":
        return [f"{where} is {array.dtype}: inputs must be real; pass real and imaginary parts"]
    if array.dtype == NUMPY["BF16"]:
        return [f"{where} is bfloat16, which torch cannot read from numpy: convert it to float32"]
    if array.dtype not in DATATYPE or array.dtype.kind == "O":
        return [
            f"{where} is {array.dtype}: inputs must be numbers, such as float32 or int64, in the "
            f"byte order of the processor"
        ]
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
