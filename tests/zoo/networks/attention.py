"""Attention in the forms in which people write it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.variants import tiny_attention
from tests.zoo.specimen import (
    CLASSES,
    FIXED_TOKENS,
    PADDED,
    SEQUENCES,
    TOKENS,
    Data,
    Output,
    padded,
    specimen,
)


@specimen(FIXED_TOKENS)
def own_attention() -> nn.Module:
    return tiny_attention.TinyEncoder()


@specimen(TOKENS)
def own_attention_any_length() -> nn.Module:
    return tiny_attention.TinyEncoder()


@specimen(SEQUENCES)
class MultiheadAttention(nn.Module):
    """torch's attention, which reads the weights of `out_proj` without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        mixed, _ = self.attention(steps, steps, steps, need_weights=False)
        return self.head((steps + mixed).mean(1).relu())


@specimen(SEQUENCES)
class CrossAttention(nn.Module):
    """Queries are learned; keys and values have widths of their own. Returns the weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 2, 12))
        self.attention = nn.MultiheadAttention(12, 3, kdim=8, vdim=8, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        query = self.query.expand(len(steps), -1, -1)
        mixed, shares = self.attention(query, steps, steps)
        return self.head(mixed.flatten(1)), shares


@specimen(PADDED)
class MaskedAttention(nn.Module):
    """torch's attention with a mask of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Output:
        words = self.embedding(ids)
        mixed, _ = self.attention(words, words, words, key_padding_mask=mask == 0)
        weights = mask.unsqueeze(2).float()
        return self.head((mixed * weights).sum(1) / weights.sum(1))


def _encoder(*, norm_first: bool = False) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 24, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)


@specimen(SEQUENCES)
class TransformerEncoder(nn.Module):
    """torch's encoder, which uses a fused operator in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = _encoder(), nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        return self.head(self.encoder(steps).mean(1))


@specimen(SEQUENCES)
class NormFirstEncoder(nn.Module):
    """LayerNorms before attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = _encoder(norm_first=True), nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        return self.head(self.encoder(steps).mean(1))


@specimen(PADDED)
class PaddedEncoder(nn.Module):
    """torch's encoder with a mask of the padding, for which it uses nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.encoder, self.head = _encoder(), nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Output:
        encoded = self.encoder(self.embedding(ids), src_key_padding_mask=mask == 0)
        return self.head(encoded[:, 0])


@specimen(Data(padded))
class PaddedNormFirst(nn.Module):
    """A mask of the padding without the fused operator, texts of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.encoder, self.head = _encoder(norm_first=True), nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Output:
        encoded = self.encoder(self.embedding(ids), src_key_padding_mask=mask == 0)
        return self.head(encoded[:, 0])


@specimen(SEQUENCES)
class CausalEncoder(nn.Module):
    """torch's encoder with a causal mask that is made for the length of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = _encoder(), nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        mask = nn.Transformer.generate_square_subsequent_mask(steps.shape[1])
        return self.head(self.encoder(steps, mask=mask, is_causal=True)[:, -1])


@specimen(SEQUENCES)
class TransformerDecoder(nn.Module):
    """torch's decoder: learned targets attend to themselves and to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = nn.Parameter(torch.zeros(1, 2, 8))
        layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.decoder, self.head = nn.TransformerDecoder(layer, 1), nn.Linear(16, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        targets = self.targets.expand(len(steps), -1, -1)
        return self.head(self.decoder(targets, steps).flatten(1))


@specimen(SEQUENCES)
class FusedProjections(nn.Module):
    """One layer computes query, key and value, as in ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.projections, self.output = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        size, length, _ = steps.shape
        parts = self.projections(self.norm(steps)).reshape(size, length, 3, 2, 4)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        shares = (query @ key.transpose(-2, -1) * 0.5).softmax(-1)
        mixed = (shares @ value).transpose(1, 2).reshape(size, length, 8)
        return self.head((steps + self.output(mixed)).mean(1))


@specimen(SEQUENCES)
class CausalAttention(nn.Module):
    """Causal attention by the fused function, and by a triangle that a buffer holds."""

    triangle: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("triangle", torch.ones(16, 16).tril().bool(), persistent=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        length = steps.shape[1]
        query, key, value = self.query(steps), self.key(steps), self.value(steps)
        first = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        scores = query @ key.transpose(1, 2) / 8**0.5
        scores = scores.masked_fill(~self.triangle[:length, :length], float("-inf"))
        second = scores.softmax(2) @ value
        return self.head(torch.cat([first, second * second], 2)[:, -1])


class RootMeanSquareNorm(nn.Module):
    """RMSNorm as in published code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor) -> Output:
        size = features.square().mean(-1, keepdim=True)
        return features * torch.rsqrt(size + 1e-6) * self.weight


@specimen(TOKENS)
class LlamaBlock(nn.Module):
    """Rotary positions, grouped keys and values, RMSNorm and SwiGLU, without biases."""

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.attention_norm, self.inner_norm = RootMeanSquareNorm(16), nn.RMSNorm(16)
        self.query, self.output = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.key, self.value = nn.Linear(16, 8, bias=False), nn.Linear(16, 8, bias=False)
        self.gate, self.up = nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False)
        self.down, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, CLASSES, bias=False)
        self.register_buffer("angles", torch.outer(torch.arange(16.0), torch.tensor([1.0, 0.1])))

    def forward(self, ids: Tensor) -> Output:
        words = self.embedding(ids)
        words = words + self._attend(self.attention_norm(words))
        normed = self.inner_norm(words)
        words = words + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return self.head(words[:, -1])

    def _attend(self, words: Tensor) -> Output:
        query = self._rotate(self.query(words).unflatten(2, (4, 4)).transpose(1, 2))
        key = self._rotate(self.key(words).unflatten(2, (2, 4)).transpose(1, 2))
        value = self.value(words).unflatten(2, (2, 4)).transpose(1, 2)
        key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _rotate(self, parts: Tensor) -> Tensor:
        angles = self.angles[: parts.shape[2]]
        first, second = parts.chunk(2, dim=-1)
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
