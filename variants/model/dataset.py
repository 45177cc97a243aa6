"""Datasets in three splits. Techniques never receive the test split.

    train, validation ─▶ TrainingData ─▶ techniques (training, statistics, thresholds, calibration)
    test ─────────────────────────────▶ report cards only

This module uses numpy and does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = Mapping[str, NDArray[Any]]
"""Inputs of the model by name, in the order of the parameters of its `forward`. Each array is
`[n, ...]` with one row per sample, as clients send it, before any normalization."""

Axes: TypeAlias = Mapping[str, Mapping[int, str]]
"""Names of the variable dimensions other than the first, by input: `{"ids": {1: "tokens"}}`.
Dimensions of one name have one size within a request."""


def count(samples: Samples) -> int:
    """Return the number of samples."""
    return len(next(iter(samples.values())))


def rows(samples: Samples, selection: slice | NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
    """Return the samples with these indices or in this slice."""
    return {name: array[selection] for name, array in samples.items()}


def shortened(samples: Samples, axes: Axes) -> dict[str, NDArray[Any]]:
    """Return the samples cut to half, at least 1, along every dimension in `axes`."""
    short = dict(samples)
    for name, named in axes.items():
        for axis in named:
            size = max(1, short[name].shape[axis] // 2)
            short[name] = np.take(short[name], range(size), axis=axis)
    return short


def resized(samples: Samples, axes: Axes, name: str, size: int) -> dict[str, NDArray[Any]]:
    """Return the samples with every dimension of this name cut to `size`, or repeated up to it."""
    result = dict(samples)
    for key, named in axes.items():
        for axis, other in named.items():
            if other == name:
                indices = np.arange(size) % max(1, result[key].shape[axis])
                result[key] = np.take(result[key], indices, axis=axis)
    return result


@dataclass(frozen=True, eq=False)
class Split:
    """Samples, `[n, ...]` for each input, and their classes, INT64 `[n]`."""

    samples: Samples
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not isinstance(self.samples, Mapping) or not self.samples:
            raise ValueError('samples must map input names to arrays, as in {"input": images}')
        for name, array in (*self.samples.items(), ("labels", self.labels)):
            if not isinstance(array, np.ndarray):
                what = "labels" if name == "labels" else f"samples of {name!r}"
                raise ValueError(
                    f"{what} must be a numpy array, got {type(array).__name__}: "
                    + ("call .numpy() on it" if hasattr(array, "numpy") else "use np.asarray")
                )
        if self.labels.dtype != np.int64 or self.labels.ndim != 1:
            raise ValueError(
                f"labels must be INT64 [n], got {self.labels.dtype} {list(self.labels.shape)}"
            )
        for name, array in self.samples.items():
            if len(array) != len(self.labels):
                raise ValueError(f"{len(array)} samples of {name!r}, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Split:
        """Return the samples from `start` up to `stop` as a view."""
        return self.take(slice(start, stop))

    def take(self, selection: slice | NDArray[np.integer[Any]]) -> Split:
        """Return the samples with these indices or in this slice."""
        return Split(rows(self.samples, selection), self.labels[selection])

    def draw(self, seed: int, *sizes: int) -> tuple[Split, ...]:
        """Draw disjoint random parts of these sizes. Each part keeps the order of the samples.

        If there are too few samples, the last parts are smaller.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        ends = np.cumsum(sizes)
        parts = zip((0, *ends[:-1]), ends, strict=True)
        return tuple(self.take(np.sort(order[start:end])) for start, end in parts)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The splits a technique may use. The test split is excluded, so it cannot leak."""

    train: Split
    validation: Split


@dataclass(frozen=True, eq=False)
class Datasets:
    """The three splits of a project, as its `datasets` function returns them."""

    train: Split
    validation: Split
    test: Split
    axes: Axes = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = self._layout(self.train)
        for name, split in (("validation", self.validation), ("test", self.test)):
            if (layout := self._layout(split)) != expected:
                raise ValueError(f"the {name} split has {layout}, the train split {expected}")
        if not (len(self.train) and len(self.validation) and len(self.test)):
            raise ValueError("each of the three splits must have samples")

    def _layout(self, split: Split) -> str:
        """Describe inputs, datatypes and shapes without axes, which must be equal in all splits."""
        inputs = []
        for name, array in split.samples.items():
            sizes = dict(enumerate(array.shape)) | {0: "n"} | dict(self.axes.get(name, {}))
            inputs.append(f"{name} {array.dtype} [{', '.join(map(str, sizes.values()))}]")
        return ", ".join(inputs)

    @property
    def training_data(self) -> TrainingData:
        """The train and validation splits."""
        return TrainingData(self.train, self.validation)

    def sha256(self) -> str:
        """Return a hash over the content, types and shapes of all splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for name, array in (*split.samples.items(), ("labels", split.labels)):
                digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
