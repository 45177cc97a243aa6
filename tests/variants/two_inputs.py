"""A small text classifier: two inputs of variable length, an embedding, a masked mean, two layers.

    ids INT64 [n, tokens], mask INT64 [n, tokens]  ─▶  logits FP32 [n, 3]

The texts of a split are padded to one length, which can differ between splits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from variants.model.dataset import Axes, Datasets, Split
from variants.model.loading import describe_interface
from variants.model.state import CompressionState

VOCABULARY, TOKENS, WIDTH, HIDDEN, CLASSES = 30, 12, 8, 16, 3
AXES: Final[Axes] = {"ids": {1: "tokens"}, "mask": {1: "tokens"}}


class TwoInputs(nn.Module):
    """Classifies the mean embedding of the tokens with mask 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.hidden = nn.Linear(WIDTH, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(self.embedding.weight.dtype)
        mean = (self.embedding(ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        logits: Tensor = self.head(torch.relu(self.hidden(mean)))
        return logits


def network(seed: int = 0) -> TwoInputs:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoInputs().eval()


def split(count: int, seed: int = 0, tokens: int = TOKENS) -> Split:
    """Return texts in which at least two thirds of the tokens determine the class: id % 3.

    Lengths are 3 to `tokens`. Masked tokens belong to another class, so the mask matters.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    mask = np.arange(tokens) < random.integers(3, tokens + 1, (count, 1))
    ids = random.integers(0, VOCABULARY, (count, tokens))
    kind = np.where(mask, labels[:, None], labels[:, None] + 1) % CLASSES
    ids = np.where(random.random(ids.shape) < 0.5, ids - ids % CLASSES + kind, ids)
    return Split({"ids": ids, "mask": mask.astype(np.int64)}, labels)


def datasets() -> Datasets:
    return Datasets(train=split(400, 1), validation=split(120, 2), test=split(100, 3), axes=AXES)


def state(seed: int = 0) -> CompressionState:
    built = network(seed)
    return CompressionState(built, describe_interface(built, split(1).samples, AXES), dense=built)
