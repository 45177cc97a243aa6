from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from examples.cifar10 import data, model
from examples.cifar10.prepare import _in_torch_layout
from variants.catalog.recipe import Project
from variants.compression.techniques import resolve_all
from variants.model.dataset import Datasets
from variants.model.loading import describe_interface, load_weights
from variants.model.training import accuracy

needs_data = pytest.mark.skipif(
    not data.FOLDER.exists(), reason="needs `python -m examples.fetch cifar10` (150 MB)"
)


def test_the_network_has_the_published_size() -> None:
    network = model.network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 968_394
    interface = describe_interface(network, {"input": np.zeros((1, 3, 32, 32), np.float32)}, {})
    assert [spec.shape for spec in interface.inputs] == [(-1, 3, 32, 32)]
    assert [spec.shape for spec in interface.outputs] == [(-1, 10)]


def test_the_network_scales_plain_pixels() -> None:
    scaled = model.network()[0](torch.tensor([0.0, 0.5, 1.0]))
    assert scaled.tolist() == [0.0, 127.5, 255.0]


def test_kernels_are_transposed_to_the_layout_of_torch() -> None:
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # height, width, in, out
    transposed = _in_torch_layout(kernel)
    assert transposed.shape == (5, 4, 2, 3)
    assert transposed[1, 2, 0, 2] == kernel[0, 2, 2, 1]
    assert _in_torch_layout(np.arange(6).reshape(2, 3)).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_missing_data_raises_an_error_with_the_download_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no CIFAR-10 in .*; `python -m examples.fetch cifar10`"):
        data.load(tmp_path)


def test_every_recipe_is_valid() -> None:
    project = Project.load(Path(model.__file__).with_name("recipes.yaml"))
    for recipe in project.recipes.values():
        resolve_all(recipe)


def test_the_splits_are_determined_by_the_seed_and_disjoint(tmp_path: Path) -> None:
    numbers = np.arange(5_100)
    pixels = np.broadcast_to((numbers // 20)[:, None, None, None], (5_100, 3, 32, 32))
    for name in ("train", "test"):
        np.save(tmp_path / f"{name}_images.npy", pixels.astype(np.uint8))
        np.save(tmp_path / f"{name}_labels.npy", (numbers % 10).astype(np.uint8))
    first, again = data.load(tmp_path), data.load(tmp_path)
    assert [len(first.train), len(first.validation), len(first.test)] == [100, 5_000, 5_100]
    assert np.array_equal(first.validation.labels, again.validation.labels)
    levels = np.concatenate(
        [one.samples["input"][:, 0, 0, 0] for one in (first.train, first.validation)]
    )
    assert np.array_equal(np.sort(np.rint(levels * 255)), numbers // 20)


@pytest.fixture(scope="module")
def fetched() -> Datasets:
    return data.load()


@needs_data
def test_the_splits_are_the_whole_of_cifar10(fetched: Datasets) -> None:
    assert [len(one) for one in (fetched.train, fetched.validation, fetched.test)] == [
        45_000, 5_000, 10_000,
    ]  # fmt: skip
    labels = np.concatenate([fetched.train.labels, fetched.validation.labels])
    assert np.bincount(labels).tolist() == [5_000] * 10
    assert np.bincount(fetched.test.labels).tolist() == [1_000] * 10
    pixels = fetched.validation.samples["input"]
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (0, 1)
    # The published means by colour, which 5,000 images reproduce to a hundredth.
    assert pixels.mean(axis=(0, 2, 3)) == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)


@needs_data
def test_the_published_weights_reach_the_published_accuracy(fetched: Datasets) -> None:
    network = model.network().eval()
    load_weights(network, model.weights())
    # 80.14 % on all 10,000 images, 80.6 % on the first 1,000.
    assert accuracy(network, fetched.test.part(0, 1_000)) == pytest.approx(0.80, abs=0.03)
