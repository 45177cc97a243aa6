"""CIFAR-10 (Krizhevsky 2009, Learning multiple layers of features from tiny images).

60,000 colour photographs of 32 x 32 pixels in 10 classes. 5,000 of the 50,000 training images,
drawn with a fixed seed, are the validation split. `python -m examples.fetch cifar10` downloads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.package import FOLDER as MODELS
from variants.model.dataset import Datasets, Split

FOLDER: Final = MODELS / "cifar10"
CLASSES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
VALIDATION_SAMPLES: Final = 5_000
SEED: Final = 0


def load(folder: Path = FOLDER) -> Datasets:
    """Return the three splits: `input` FP32 `[n, 3, 32, 32]`, pixels from 0 to 1.

    Raises `ValueError` with the download command if the files are missing.
    """
    pixels, labels = _read(folder, "train")
    order = np.random.default_rng(SEED).permutation(len(labels))
    train, validation = order[VALIDATION_SAMPLES:], order[:VALIDATION_SAMPLES]
    return Datasets(
        train=_split(pixels[train], labels[train]),
        validation=_split(pixels[validation], labels[validation]),
        test=_split(*_read(folder, "test")),
    )


def _read(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        return np.load(folder / f"{name}_images.npy"), np.load(folder / f"{name}_labels.npy")
    except FileNotFoundError:
        raise ValueError(
            f"there is no CIFAR-10 in {folder}; `python -m examples.fetch cifar10` fetches it"
        ) from None


def _split(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    images = np.divide(pixels, np.float32(255), dtype=np.float32)
    return Split({"input": images}, labels.astype(np.int64))
