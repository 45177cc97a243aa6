from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.fashion_mnist import data, model
from variants.catalog.recipe import Project
from variants.compression.techniques import resolve_all
from variants.model.loading import describe_interface

PROJECT = Path(model.__file__).with_name("recipes.yaml")


def test_the_splits_are_the_whole_of_fashion_mnist_and_disjoint() -> None:
    datasets = data.load()
    splits = (datasets.train, datasets.validation, datasets.test)
    assert [len(split) for split in splits] == [54_000, 6_000, 10_000]
    for split in splits:
        assert split.samples.keys() == {"input"}
        pixels = split.samples["input"]
        assert pixels.dtype == np.float32
        assert pixels.shape[1:] == (784,)
        assert (pixels.min(), pixels.max()) == (0, 1)
    labels = np.concatenate([datasets.train.labels, datasets.validation.labels])
    assert np.bincount(labels).tolist() == [6_000] * 10
    assert np.bincount(datasets.test.labels).tolist() == [1_000] * 10
    assert np.bincount(datasets.validation.labels).min() > 500


def test_a_damaged_file_raises_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(data.FOLDER, tmp_path / "data")
    monkeypatch.setattr(data, "FOLDER", copy)
    path = copy / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz does not match its hash"):
        data.load()
    path.unlink()
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz is missing"):
        data.load()


def test_the_model_takes_plain_pixels() -> None:
    network = model.network()
    interface = describe_interface(network, {"input": np.zeros((1, 784), dtype=np.float32)}, {})
    assert [spec.shape for spec in (*interface.inputs, *interface.outputs)] == [(-1, 784), (-1, 10)]
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_824_522
    pixels = torch.tensor([[0.0, 0.286, 1.0]])
    torch.testing.assert_close(
        network[0](pixels), torch.tensor([[-0.286, 0.0, 0.714]]) / 0.353, atol=1e-6, rtol=0
    )


def test_every_recipe_of_the_demo_is_valid() -> None:
    project = Project.load(PROJECT)
    assert set(project.recipes) == {
        "dense",
        "activation-pruned",
        "sparse-2:4-int8",
        "sparse-90",
        "int8",
    }
    for recipe in project.recipes.values():
        resolve_all(recipe)
