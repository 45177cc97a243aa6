"""Networks that look up ids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.variants import two_inputs
from tests.zoo.specimen import (
    CLASSES,
    FIXED_TOKENS,
    PADDED,
    TOKENS,
    Data,
    Output,
    of_type,
    specimen,
    tokens,
)


@specimen(TOKENS)
class BagOfWords(nn.Module):
    """The mean of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.body(self.embedding(ids).mean(1)).relu())


@specimen(FIXED_TOKENS)
class EmbeddingBag(nn.Module):
    """torch's sum of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(20, 16, mode="sum"), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.words(ids).relu())


@specimen(PADDED)
def masked_mean() -> nn.Module:
    return two_inputs.TwoInputs()


@specimen(FIXED_TOKENS)
class LearnedPositions(nn.Module):
    """A table of positions, looked up by numbers that a buffer holds."""

    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 12), nn.Embedding(6, 12)
        self.register_buffer("numbers", torch.arange(6))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.norm(self.words(ids) + self.positions(self.numbers)).relu().mean(1))


@specimen(TOKENS)
class ComputedPositions(nn.Module):
    """Positions from the length of the input, as a table and as sines."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 12), nn.Embedding(32, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        numbers = torch.arange(ids.shape[1], device=ids.device)
        waves = torch.sin(numbers.unsqueeze(1) / torch.tensor([1.0, 3.0, 9.0]).repeat(4))
        return self.head((self.words(ids) + self.positions(numbers) + waves).relu().mean(1))


@specimen(TOKENS)
class LearnedQuery(nn.Module):
    """Attention pooling with one learned query."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.query = nn.Embedding(20, 12), nn.Parameter(torch.zeros(12))
        self.body, self.head = nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        words = self.words(ids)
        shares = (words @ self.query).softmax(1)
        return self.head(self.body((shares.unsqueeze(1) @ words).squeeze(1)).relu())


@specimen(TOKENS)
class TextConvolution(nn.Module):
    """Convolutions over tokens with a maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.narrow, self.wide = nn.Conv1d(8, 6, 1), nn.Conv1d(8, 6, 3, padding=1)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        words = self.words(ids).transpose(1, 2)
        found = [layer(words).relu().amax(2) for layer in (self.narrow, self.wide)]
        return self.head(torch.cat(found, 1))


@specimen(Data(of_type(tokens, "int32")))
class NarrowIds(nn.Module):
    """Ids in 32 bits, of which each column has a table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 4) for _ in range(6))
        self.body, self.head = nn.Linear(24, 16), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        words = [table(column) for table, column in zip(self.tables, ids.unbind(1), strict=True)]
        return self.head(self.body(torch.cat(words, 1)).relu())


@specimen(FIXED_TOKENS)
class OneHot(nn.Module):
    """Ids become columns of zeros and ones."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(20, 12), nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        columns = nn.functional.one_hot(ids, 20).float()
        return self.head(self.body(columns).relu().amax(1))
