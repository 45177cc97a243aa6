"""The demo model: a multilayer perceptron with two hidden layers of 2,048, about 5.8 M parameters.

Deliberately larger than the task needs, so that there is something to compress.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from examples.fashion_mnist import data
from variants.model.dataset import Datasets

HIDDEN = 2048


class Normalize(nn.Module):
    """Centres and scales pixels from 0 to 1 by the training set's statistics.

    Inside the model, so that a client sends plain pixels and knows no constants.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, pixels: Tensor) -> Tensor:
        """FP32 `[n, 784]` to the same shape."""
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
    """What `python -m examples.fashion_mnist.train` writes."""
    return Path(__file__).with_name("weights.safetensors")


def datasets() -> Datasets:
    """Return the images shipped beside this file: `input` FP32 `[n, 784]`, pixels from 0 to 1."""
    return data.load()
