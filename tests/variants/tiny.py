"""A network with a few hundred weights, and random data for it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from variants.model.dataset import Datasets, Samples, Split
from variants.model.forward import all_scores
from variants.model.loading import describe_interface
from variants.model.state import CompressionState

INPUTS, HIDDEN, CLASSES = 8, 16, 3


def network(seed: int = 0) -> nn.Sequential:
    """Return a network from FP32 `[n, 8]` to FP32 `[n, 3]` with two hidden layers of 16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(INPUTS, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, CLASSES),
        ).eval()


def split(count: int, seed: int = 0) -> Split:
    """Return normal samples. The class is the index of the largest of the first three values."""
    samples = np.random.default_rng(seed).standard_normal((count, INPUTS)).astype(np.float32)
    return Split({"input": samples}, samples[:, :CLASSES].argmax(axis=1))


def datasets() -> Datasets:
    return Datasets(train=split(400, 1), validation=split(120, 2), test=split(100, 3))


def state(seed: int = 0) -> CompressionState:
    built = network(seed)
    return CompressionState(built, describe_interface(built, split(1).samples, {}), dense=built)


def answers(module: nn.Module, samples: Samples) -> NDArray[np.float32]:
    """Return the scores of the module in evaluation mode."""
    result: NDArray[np.float32] = all_scores(module, samples).numpy()
    return result
