"""A convolutional network for CIFAR-10 with published weights: 968,394 parameters.

Six 3 x 3 convolutions without padding, each with ReLU and then batch normalisation, two poolings
between them, and three Linear layers. The weights are those of the package `cifar-10-model`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from examples.cifar10 import data
from variants.model.dataset import Datasets

CHANNELS = (64, 64, 128, 128, 64, 64)
POOLED_AFTER = (1, 3)
LINEARS = (1024, 512, 10)
EPSILON = 1e-3  # of batch normalisation, as the weights were trained with


class Scale(nn.Module):
    """Multiplies by a constant: inside the model, so that a client sends plain pixels."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def forward(self, pixels: Tensor) -> Tensor:
        """FP32 of any shape to the same shape."""
        return pixels * self._factor


def network() -> nn.Sequential:
    """Return the untrained network: pixels FP32 `[n, 3, 32, 32]` to logits FP32 `[n, 10]`."""
    layers: list[nn.Module] = [Scale(255.0)]
    before = 3
    for number, channels in enumerate(CHANNELS):
        norm = nn.BatchNorm2d(channels, eps=EPSILON)
        layers += [nn.Conv2d(before, channels, 3), nn.ReLU(), norm]
        if number in POOLED_AFTER:
            layers.append(nn.MaxPool2d(2))
        before = channels
    layers.append(nn.Flatten())  # one pixel is left of the image
    for features in LINEARS:
        layers += [nn.Linear(before, features), nn.ReLU()]
        before = features
    return nn.Sequential(*layers[:-1])


def weights() -> Path:
    """What `python -m examples.fetch cifar10` writes."""
    return data.FOLDER / "weights.safetensors"


def datasets() -> Datasets:
    """Return CIFAR-10: `input` FP32 `[n, 3, 32, 32]`, pixels from 0 to 1."""
    return data.load()
