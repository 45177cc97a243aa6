"""A small image classifier: FP32 `[n, 3, 8, 8]` to FP32 `[n, 4]`.

It has the usual parts: batch normalization, a residual connection, pooling, a linear head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from variants.model.dataset import Datasets, Split
from variants.model.loading import describe_interface
from variants.model.state import CompressionState

COLOURS, SIDE, CHANNELS, INNER, CLASSES = 3, 8, 8, 16, 4


class TinyConv(nn.Module):
    """A stem, one residual block whose inner convolution is 16 channels wide, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(COLOURS, CHANNELS, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(CHANNELS)
        self.widen = nn.Conv2d(CHANNELS, INNER, 3, padding=1, bias=False)
        self.widen_norm = nn.BatchNorm2d(INNER)
        self.narrow = nn.Conv2d(INNER, CHANNELS, 3, padding=1)
        self.narrow_norm = nn.BatchNorm2d(CHANNELS)
        self.activation = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.activation(self.stem_norm(self.stem(images))))
        inner = self.activation(self.widen_norm(self.widen(features)))
        features = self.activation(features + self.narrow_norm(self.narrow(inner)))
        logits: Tensor = self.head(self.average(features).flatten(1))
        return logits


def network(seed: int = 0) -> TinyConv:
    """Return a network with random running statistics, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = TinyConv().eval()
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
        return built


def split(count: int, seed: int = 0) -> Split:
    """Return noisy images of 4 classes: rows, columns, checks and uniform grey."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    row, column = np.indices((SIDE, SIDE))
    kind, phase = labels[:, None, None], random.integers(0, 2, (count, 1, 1))
    stripes = np.choose(kind, [row, column, row + column, np.zeros_like(row)])
    images = np.where(kind == CLASSES - 1, 0.5, (stripes + phase) % 2)
    images = images[:, None].repeat(COLOURS, axis=1)
    images = images + random.standard_normal(images.shape)
    return Split({"input": images.astype(np.float32)}, labels)


def datasets() -> Datasets:
    return Datasets(train=split(400, 1), validation=split(120, 2), test=split(100, 3))


def state(seed: int = 0) -> CompressionState:
    built = network(seed)
    return CompressionState(built, describe_interface(built, split(1).samples, {}), dense=built)
