"""The model's data in three splits, and who may see which.

    train, validation ─▶ Material ─▶ techniques (training, statistics, thresholds, calibration)
    test ─────────────────────────▶ report cards, and nothing else

Plain numpy: importing this does not import torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[Any]
"""Inputs of the model, one row per sample; what a client would send, before any normalisation."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples `[n, ...]` with the class of each, INT64 `[n]`."""

    samples: Samples
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.dtype != np.int64 or self.labels.ndim != 1:
            raise ValueError(
                f"labels must be INT64 [n], got {self.labels.dtype} {list(self.labels.shape)}"
            )
        if len(self.samples) != len(self.labels):
            raise ValueError(f"{len(self.samples)} samples with {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Split:
        """The samples from `start` up to `stop`, as a view."""
        return Split(self.samples[start:stop], self.labels[start:stop])


@dataclass(frozen=True, eq=False)
class Material:
    """What a technique may learn from. The test split is not in it, so it cannot leak."""

    train: Split
    validation: Split


@dataclass(frozen=True, eq=False)
class Datasets:
    """The three splits of a project; its `datasets` function returns one of these."""

    train: Split
    validation: Split
    test: Split

    @property
    def material(self) -> Material:
        """Everything but the test split."""
        return Material(self.train, self.validation)

    def sha256(self) -> str:
        """One hash over the bytes, types and shapes of all splits, in order."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for array in (split.samples, split.labels):
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
