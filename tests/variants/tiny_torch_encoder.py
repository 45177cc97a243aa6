"""A text classifier with torch's own `nn.TransformerEncoder` and a padding mask.

    ids, mask INT64 [n, tokens]  ─▶  logits FP32 [n, 3]

In evaluation mode torch computes such an encoder on its fast path, without calling its layers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from variants.model.dataset import Axes, Datasets, Split
from variants.model.loading import describe_interface
from variants.model.state import CompressionState

VOCABULARY, TOKENS, WIDTH, HEADS, INNER, CLASSES = 20, 6, 16, 2, 32, 3
AXES: Axes = {"ids": {1: "tokens"}, "mask": {1: "tokens"}}


class TorchEncoder(nn.Module):
    """Embeddings, one encoder layer, the sum of the tokens with mask 1, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.encoder(self.embedding(ids), src_key_padding_mask=mask == 0)
        logits: Tensor = self.head((tokens * mask[:, :, None]).sum(1))
        return logits


def network(seed: int = 0) -> TorchEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TorchEncoder().eval()


def split(count: int, seed: int = 0) -> Split:
    """Return texts of 2 to 6 tokens, padded on the right, with random classes."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, VOCABULARY, (count, TOKENS))
    mask = (np.arange(TOKENS) < random.integers(2, TOKENS + 1, (count, 1))).astype(np.int64)
    return Split({"ids": ids, "mask": mask}, random.integers(0, CLASSES, count))


def datasets() -> Datasets:
    return Datasets(train=split(80, 1), validation=split(80, 2), test=split(40, 3), axes=AXES)


def state() -> CompressionState:
    built = network()
    return CompressionState(built, describe_interface(built, split(1).samples, AXES), dense=built)
