"""The demo model: a multilayer perceptron with two hidden layers of 2,048, about 5.8 M parameters.

It is larger than the task requires, to leave room for compression.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from examples.fashion_mnist import data
from variants.model.dataset import Datasets

HIDDEN = 2048


class Normalize(nn.Module):
    """Standardizes pixels from 0 to 1 by the mean and standard deviation of the training set.

    Part of the model, so clients send plain pixels.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, pixels: Tensor) -> Tensor:
        """Standardize FP32 pixels `[n, 784]`."""
        return (pixels - self._mean) / self._deviation


def network() -> nn.Sequential:
    """Return the untrained network: pixels FP32 `[n, 784]` to logits FP32 `[n, 10]`."""
    return nn.Sequential(
        Normalize(0.2860, 0.3530),
        nn.Linear(784, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 10),
    )


def weights() -> Path:
    """Return the path of the weights that `python -m examples.fashion_mnist.train` writes."""
    return Path(__file__).with_name("weights.safetensors")


def datasets() -> Datasets:
    """Return Fashion-MNIST: `input` FP32 `[n, 784]`, pixels from 0 to 1."""
    return data.load()
