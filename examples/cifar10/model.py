"""A convolutional network for CIFAR-10 with published weights: 968,394 parameters.

Six 3 x 3 convolutions without padding, each followed by ReLU and batch normalization, two max
pooling layers, and three Linear layers. The weights are from the package `cifar-10-model`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from examples.cifar10 import data
from variants.model.dataset import Datasets

CHANNELS = (64, 64, 128, 128, 64, 64)
POOLED_AFTER = (1, 3)
LINEARS = (1024, 512, 10)
EPSILON = 1e-3  # of batch normalization, as in the training of the weights


class Scale(nn.Module):
    """Multiplication by a constant. Part of the model, so clients send plain pixels."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale an FP32 tensor of any shape."""
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
    layers.append(nn.Flatten())  # the feature maps have one pixel
    for features in LINEARS:
        layers += [nn.Linear(before, features), nn.ReLU()]
        before = features
    return nn.Sequential(*layers[:-1])


def weights() -> Path:
    """Return the path of the weights that `python -m examples.fetch cifar10` writes."""
    return data.FOLDER / "weights.safetensors"


def datasets() -> Datasets:
    """Return CIFAR-10: `input` FP32 `[n, 3, 32, 32]`, pixels from 0 to 1."""
    return data.load()
