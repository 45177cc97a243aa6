"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747), included in this folder.

70,000 images of clothing, 28 x 28 pixels, in 10 classes. 6,000 of the 60,000 training images, drawn
with a fixed seed, are the validation split.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from variants.model.dataset import Datasets, Split

FOLDER: Final = Path(__file__).parent / "data"
CLASSES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
VALIDATION_SAMPLES: Final = 6_000
SEED: Final = 0

_UNSIGNED_BYTES = 0x08  # IDX code of the only element type in these files


def load() -> Datasets:
    """Return the three splits: `input` FP32 `[n, 784]`, pixels from 0 to 1; labels INT64 `[n]`.

    Raises `ValueError` with the file name if a file is missing or differs from the canonical one.
    """
    images = _split("train")
    order = np.random.default_rng(SEED).permutation(len(images))
    return Datasets(
        train=images.take(order[VALIDATION_SAMPLES:]),
        validation=images.take(order[:VALIDATION_SAMPLES]),
        test=_split("t10k"),
    )


def _split(prefix: str) -> Split:
    pixels = _read(f"{prefix}-images-idx3-ubyte.gz")
    images = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
    labels = _read(f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)
    return Split({"input": images}, labels)


def _read(name: str) -> NDArray[np.uint8]:
    """Read a gzipped IDX file: 2 zero bytes, type, dimensions, a big-endian size each, elements."""
    content = _read_verified(name)
    raw = gzip.decompress(content)
    if raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTES:
        raise ValueError(f"{FOLDER / name} is not an IDX file of unsigned bytes")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], dtype=">i4")
    return np.frombuffer(raw[start:], dtype=np.uint8).reshape(shape)


def _read_verified(name: str) -> bytes:
    lines = (line.split() for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    hashes = {file: sha256 for sha256, file in lines}
    try:
        content = (FOLDER / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{FOLDER / name} is missing; it is part of the repository") from None
    if hashlib.sha256(content).hexdigest() != hashes[name]:
        raise ValueError(f"{FOLDER / name} does not match its hash in SHA256SUMS")
    return content
