"""A small real project: a 784-64-64-10 network on a few thousand Fashion-MNIST images.

The production code builds it in a few seconds; `tests.conftest.small_catalog` is its catalog.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache, partial
from pathlib import Path

import safetensors.torch
import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from torch import nn

from examples.fashion_mnist import data
from examples.fashion_mnist.model import Normalize
from tests.shared_folder import shared_folder
from variants.build.build import Measure
from variants.measurement.report_card import measure
from variants.model.dataset import Datasets
from variants.model.training import Schedule, fit

TRAIN_SAMPLES, OTHER_SAMPLES = 6_000, 1_000

RECIPES = {
    "dense": [],
    "activation-pruned": [
        {
            "technique": "activation-pruning",
            "parameters": {"mean_below": 2.0, "deviation_below": 2.5},
        },
        {"technique": "recover", "parameters": {"epochs": 1}},
    ],
    "sparse-2:4": [
        {"technique": "sparse-n:m", "parameters": {"packing": "always"}},
        {"technique": "recover", "parameters": {"epochs": 1}},
    ],
    "int8": [{"technique": "int8", "parameters": {"samples": 128}}],
}

measure_lightly: Measure = partial(
    measure, seconds_per_point=0.02, batch_sizes=(1, 8, 64), processes=1
)
"""Measures every field of a report card in a hundredth of the usual time."""


def network() -> nn.Sequential:
    """Return a new network: pixels FP32 `[n, 784]` to logits FP32 `[n, 10]`."""
    return nn.Sequential(
        Normalize(0.2860, 0.3530),
        nn.Linear(784, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@cache
def datasets() -> Datasets:
    """Return the first few thousand images of each split of the demo."""
    whole = data.load()
    return Datasets(
        train=whole.train.part(0, TRAIN_SAMPLES),
        validation=whole.validation.part(0, OTHER_SAMPLES),
        test=whole.test.part(0, OTHER_SAMPLES),
    )


@cache
def weights() -> Path:
    """Return the weights file; the first process that needs it trains the network.

    All others use the same: a build in another process needs the weights of the catalog, and where
    products are in BF16, training again does not give the same bits.
    """
    path = shared_folder() / "small.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        trained = network()
        schedule = Schedule(epochs=4, batch_size=64, learning_rate=3e-3)
        fit(trained, datasets().train, schedule, quiet())
        own = path.with_suffix(f".{os.getpid()}")
        safetensors.torch.save_file(trained.state_dict(), own)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(own, path)
        own.unlink()
    return path


def quiet() -> Progress:
    """Return progress bars that are not displayed."""
    return Progress(console=Console(quiet=True), disable=True)


def write_project(folder: Path) -> Path:
    """Write the project file of this module; return its path."""
    project = {"name": "small", "model": "tests.small", "recipes": RECIPES}
    path = folder / "recipes.yaml"
    path.write_text(yaml.safe_dump(project, sort_keys=False))
    return path
