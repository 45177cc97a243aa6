"""Networks whose answers depend on more than the sample are refused, with what to change."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.variants import tiny
from variants.build.answers import compare_answers
from variants.model.loading import describe_interface

SAMPLES = tiny.split(64).samples


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(tiny.INPUTS, 3)

    def score(self, x: Tensor) -> Tensor:
        scores: Tensor = self.f(x)
        return scores


class Branching(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.score(x).flip(1) if len(x) > 32 else self.score(x)


class TrainingNorm(Base):
    """Puts its BatchNorm into training mode again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            self.norm.train()
        normed: Tensor = self.norm(self.score(x))
        return normed


class UntrackedNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.score(x)
        if len(x) > 1:
            scores = self.norm(scores)
        return scores


class Dropping(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.score(x), 0.5, training=True)


class MixingSecondOutput(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), x - x.mean(0)


class ConstantOutput(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.f.weight


class Scalar(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.score(x).sum()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Branching, r"from 33 samples on: .* must neither mix samples nor depend on their number"),
        (TrainingNorm, r"from 2 samples on: .*; norm normalizes over the batch: it needs running"),
        (UntrackedNorm, r"from 2 samples on: .*; norm normalizes over the batch"),
        (Dropping, r"from call to call: .* F\.dropout\(\.\.\., training=True\)"),
        (MixingSecondOutput, r"from 2 samples on"),
        (ConstantOutput, r"'output_1' is \[3, 8\] for 4 samples: the first dimension of every"),
        (Scalar, r"'output_1' is \[1\] for 4 samples: the first dimension of every output"),
    ],
)
def test_it_is_refused(kind: type[nn.Module], message: str) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    interface = describe_interface(network, tiny.split(1).samples, {})
    with pytest.raises(ValueError, match=message):
        compare_answers(network, SAMPLES, interface)


def test_a_plain_network_gets_its_scores() -> None:
    network = tiny.network()
    interface = describe_interface(network, SAMPLES, {})
    scores = compare_answers(network, tiny.split(2).samples, interface)
    np.testing.assert_allclose(scores[:2], tiny.answers(network, tiny.split(2).samples), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_outputs_of_16_bits_are_refused(kind: torch.dtype) -> None:
    class Half(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.score(x).to(kind)

    name = re.escape(str(kind).removeprefix("torch."))
    with pytest.raises(ValueError, match=rf"returns 'logits' as {name}: .*\.float\(\)"):
        describe_interface(Half(), SAMPLES, {})
