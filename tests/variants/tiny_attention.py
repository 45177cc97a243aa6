"""A small text classifier with a transformer encoder: ids INT64 `[n, tokens]` to `[n, 3]` FP32.

Post-norm like BERT. The number of heads follows from the shapes of the weights, which head pruning
requires.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.model.dataset import Axes, Datasets, Split
from variants.model.loading import describe_interface
from variants.model.state import CompressionState

VOCABULARY, TOKENS, WIDTH, HEAD_DIM, HEADS, INNER, CLASSES = 20, 6, 12, 4, 3, 24, 3
LAYERS = 2
AXES: Axes = {"ids": {1: "tokens"}}


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = HEAD_DIM
        self.query = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.key = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.value = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.output = nn.Linear(HEADS * HEAD_DIM, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.query.weight.shape[0] // self.head_dim
        query, key, value = (
            part(tokens).unflatten(-1, (heads, self.head_dim)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual connection and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, INNER)
        self.outer = nn.Linear(INNER, WIDTH)
        self.outer_norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.attention_norm(tokens + self.attention(tokens))
        normed: Tensor = self.outer_norm(tokens + self.outer(F.gelu(self.inner(tokens))))
        return normed


class TinyEncoder(nn.Module):
    """Embeddings of tokens and positions, two layers, the mean of the tokens, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(TOKENS, WIDTH) / 2)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.embedding(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens)
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


def network(seed: int = 0) -> TinyEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyEncoder().eval()


def split(count: int, seed: int = 0) -> Split:
    """Return texts in which every second token determines the class: id % 3."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    ids = random.integers(0, VOCABULARY, (count, TOKENS))
    ids[:, ::2] = np.minimum(ids[:, ::2] // CLASSES * CLASSES + labels[:, None], VOCABULARY - 1)
    return Split({"ids": ids}, labels)


def datasets() -> Datasets:
    return Datasets(train=split(400, 1), validation=split(120, 2), test=split(100, 3), axes=AXES)


def state(seed: int = 0) -> CompressionState:
    built = network(seed)
    return CompressionState(built, describe_interface(built, split(1).samples, AXES), dense=built)
