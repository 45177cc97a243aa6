"""A BERT encoder (Devlin et al. 2019, arXiv:1810.04805) with a classification head.

    input_ids, attention_mask ─▶ Embeddings ─▶ Block x layers ─▶ mean over the tokens ─▶ head

The number of tokens is variable. The numbers of heads and hidden neurons of a layer follow from the
shapes of its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

_NORM_EPSILON: Final = 1e-12
_DROPOUT: Final = 0.1
_MASKED: Final = -1e4
"""Added to attention scores of padding tokens, so their weight is 0, also in FP16."""


@dataclass(frozen=True)
class Size:
    """Dimensions of a network. The defaults are those of all-MiniLM-L6-v2."""

    classes: int
    vocabulary: int = 30_522
    positions: int = 512
    layers: int = 6
    width: int = 384
    head_dim: int = 32
    hidden: int = 1536


class Embeddings(nn.Module):
    """Sum of token and position embeddings, normalized."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.word = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Embedding(size.positions, size.width)
        self.norm = nn.LayerNorm(size.width, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, ids: Tensor) -> Tensor:
        """Map INT64 `[n, tokens]` to FP32 `[n, tokens, width]`."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        embedded: Tensor = self.dropout(self.norm(self.word(ids) + self.position(positions)))
        return embedded


class Attention(nn.Module):
    """Multi-head self-attention. The weight of `query` determines the number of heads."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.head_dim = size.head_dim
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width)
        self.value = nn.Linear(size.width, size.width)
        self.output = nn.Linear(size.width, size.width)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Attend over FP32 `[n, tokens, width]`; `bias` `[n, 1, 1, tokens]` is added to scores."""
        query, key, value = (
            projected(tokens).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projected in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(self.head_dim) + bias
        mixed = scores.softmax(3) @ value
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """One layer: attention and a feed-forward network, each with a residual and a norm."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = Attention(size)
        self.attention_norm = nn.LayerNorm(size.width, eps=_NORM_EPSILON)
        self.expand = nn.Linear(size.width, size.hidden)
        self.activation = nn.GELU()
        self.contract = nn.Linear(size.hidden, size.width)
        self.norm = nn.LayerNorm(size.width, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Map FP32 `[n, tokens, width]` to the same shape."""
        tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens, bias)))
        update = self.contract(self.activation(self.expand(tokens)))
        normed: Tensor = self.norm(tokens + self.dropout(update))
        return normed


class Encoder(nn.Module):
    """Maps token ids and their mask to one vector per text."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embeddings = Embeddings(size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map INT64 `[n, tokens]` to FP32 `[n, width]`.

        The mask is 1 for tokens and 0 for padding. The vector is the mean over the tokens.
        """
        tokens = self.embeddings(input_ids)
        mask = attention_mask.to(tokens.dtype)
        bias = (1 - mask)[:, None, None, :] * _MASKED
        for block in self.blocks:
            tokens = block(tokens, bias)
        summed = (tokens * mask[:, :, None]).sum(1)
        mean: Tensor = summed / mask.sum(1, keepdim=True).clamp(min=1)
        return mean


class Classifier(nn.Module):
    """The encoder with a Linear classification head."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = Encoder(size)
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(size.width, size.classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token ids and mask, INT64 `[n, tokens]`, to logits FP32 `[n, classes]`."""
        logits: Tensor = self.head(self.dropout(self.encoder(input_ids, attention_mask)))
        return logits
