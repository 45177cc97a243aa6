"""Several inputs, several outputs, and outputs of other types."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.specimen import (
    CLASSES,
    VECTORS,
    Data,
    Output,
    specimen,
    together,
    tokens,
    vectors,
)
from variants.model.dataset import Samples


class Heads(nn.Module):
    """A body and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 24), nn.ReLU())
        self.head, self.other = nn.Linear(24, CLASSES), nn.Linear(24, 5)

    def both(self, features: Tensor) -> tuple[Output, Output]:
        hidden = self.body(features)
        return self.head(hidden), self.other(hidden)


@specimen(VECTORS)
class TupleOutput(Heads):
    """Returns a tuple."""

    def forward(self, features: Tensor) -> Output:
        return self.both(features)


@specimen(VECTORS)
class ListOutput(Heads):
    """Returns a list that also holds the hidden values."""

    def forward(self, features: Tensor) -> Output:
        return [*self.both(features), self.body(features)]


@specimen(VECTORS)
class DictOutput(Heads):
    """Returns a dictionary, as models of transformers do."""

    def forward(self, features: Tensor) -> Output:
        scores, other = self.both(features)
        return {"logits": scores, "other": other}


class Named(NamedTuple):
    scores: Tensor
    other: Tensor


@specimen(VECTORS)
class NamedOutput(Heads):
    """Returns a named tuple."""

    def forward(self, features: Tensor) -> Output:
        return Named(*self.both(features))


@specimen(VECTORS)
class NoneOutput(Heads):
    """Returns None beside the scores."""

    def forward(self, features: Tensor) -> Output:
        return self.both(features)[0], None


@specimen(VECTORS)
class NestedOutput(Heads):
    """Returns a tuple within a tuple."""

    def forward(self, features: Tensor) -> Output:
        scores, other = self.both(features)
        return scores, (other, other)


@specimen(VECTORS, jumps=True)
class IntegerOutput(Heads):
    """Returns the class beside the scores."""

    def forward(self, features: Tensor) -> Output:
        scores, _ = self.both(features)
        return scores, scores.argmax(1)


@specimen(VECTORS)
class ScalarOutput(Heads):
    """Returns a number for the whole batch beside the scores."""

    def forward(self, features: Tensor) -> Output:
        scores, other = self.both(features)
        return scores, other.square().mean()


@specimen(VECTORS)
class InputAsOutput(Heads):
    """Returns the input, and one tensor twice."""

    def forward(self, features: Tensor) -> Output:
        scores, other = self.both(features)
        return scores, features, other, other


@specimen(VECTORS)
def one_score() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))


@specimen(VECTORS)
def scores_without_classes() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


def _mixed(random: np.random.Generator, size: int) -> Samples:
    return {
        "ids": random.integers(0, 20, (size, 4)),
        "numbers": random.standard_normal((size, 8)).astype(np.float32),
        "kind": random.integers(0, 4, size),
    }


@specimen(Data(_mixed))
class SeveralInputs(nn.Module):
    """Ids, numbers and one id per sample without a second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 8), nn.Embedding(4, 8)
        self.numbers, self.head = nn.Linear(8, 8), nn.Linear(24, CLASSES)

    def forward(self, ids: Tensor, numbers: Tensor, kind: Tensor) -> Output:
        parts = [self.words(ids).mean(1), self.numbers(numbers).relu(), self.kinds(kind)]
        return self.head(torch.cat(parts, 1))


@specimen(Data(together(features=vectors, ids=tokens)))
class UnusedInput(nn.Module):
    """Accepts an input that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor, ids: Tensor) -> Output:
        return self.head(self.body(features).relu())


@specimen(Data(together(features=vectors, context=vectors)))
class OptionalInput(nn.Module):
    """Has an optional argument, which the data provide."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.context, self.head = (
            nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor, context: Tensor | None = None) -> Output:
        hidden = self.body(features)
        if context is not None:
            hidden = hidden + self.context(context)
        return self.head(hidden.relu())


@specimen(Data(together(**{"input.1": vectors, "1": vectors})))
class OddInputNames(nn.Module):
    """Inputs whose names are no identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, first: Tensor, second: Tensor) -> Output:
        return self.head(self.body(first - second).relu())
