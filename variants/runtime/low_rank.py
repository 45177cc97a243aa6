"""A Linear layer as two thinner ones, and the best such pair for a rank.

    [n, in] ─▶ first: [rank, in], no bias ─▶ second: [out, rank] ─▶ [n, out]

That is smaller than the layer if rank < in * out / (in + out), its break-even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """Stands where an `nn.Linear` stood, with its inputs, outputs and bias."""

    def __init__(self, in_features: int, rank: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """FP32 `[..., in]` to `[..., out]`."""
        result: Tensor = self.second(self.first(features))
        return result

    @property
    def in_features(self) -> int:
        """How many inputs it takes."""
        return self.first.in_features

    @property
    def out_features(self) -> int:
        """How many outputs it has."""
        return self.second.out_features

    @property
    def weight(self) -> Tensor:
        """What the two amount to, `[out, in]`, for code that reads its layers' weights.

        `nn.TransformerEncoderLayer` does, and computes with them in evaluation mode.
        """
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that is added last, `[out]`."""
        return self.second.bias


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A weight `[out, in]` by directions of its outputs, the one that matters most first."""

    weight: Tensor
    """FP64 `[out, in]`"""
    directions: Tensor
    """FP64 `[out, k]`, orthonormal columns."""
    singular: Tensor
    """FP64 `[k]`, descending: the root of the squared output that each direction carries."""

    @classmethod
    def of(cls, weight: Tensor, moments: Tensor | None = None) -> Decomposition:
        """Decompose a weight by singular values.

        With `moments` `[in, in]`, X^T X / n of the layer's inputs X, they are those of the weight
        times a root of that (Wang et al. 2024, SVD-LLM, arXiv:2403.07378, with Cholesky's root).
        Discarding the last ones is then what changes the outputs least, on average over those
        inputs; without, over inputs of equal size that do not depend on each other.
        """
        weight = weight.detach().double()
        seen = weight if moments is None else weight @ _root(moments.double())
        directions, singular, _ = torch.linalg.svd(seen, full_matrices=False)
        return cls(weight, directions, singular)

    def rank_of(self, energy: float) -> int:
        """Return the least rank that keeps this share, 0 to 1, of the squared singular values."""
        squares = self.singular.square()
        kept = squares.cumsum(0) / squares.sum()
        return min(int((kept < energy).sum()) + 1, len(squares))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return FP32 `[rank, in]` and `[out, rank]` of which the product is nearest the weight.

        Each direction has the same length in both, as suits training and quantisation.
        """
        directions = self.directions[:, :rank]
        # What is left of the weight is its projection, whatever the inputs: no root is inverted.
        first = directions.T @ self.weight
        length = first.norm(dim=1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return (first / length[:, None]).float(), (directions * length).float()


def break_even(in_features: int, out_features: int) -> float:
    """Return the rank at which two thin layers have as many weights as the one they replace."""
    return in_features * out_features / (in_features + out_features)


def replacement(
    linear: nn.Linear, decomposition: Decomposition, rank: int, inputs: Tensor | None = None
) -> LowRank:
    """Return what computes nearly what the layer does; trainable where the layer was.

    With `inputs`, their mean FP64 `[in]`, the bias makes up for what the weight loses there.
    """
    made = LowRank(linear.in_features, rank, linear.out_features, bias=linear.bias is not None)
    made = made.to(linear.weight.dtype).train(linear.training)
    first, second = decomposition.factors(rank)
    with torch.no_grad():
        made.first.weight.copy_(first)
        made.second.weight.copy_(second)
        if linear.bias is not None:
            bias = linear.bias.double()
            if inputs is not None:
                bias += (decomposition.weight - second.double() @ first.double()) @ inputs
            made.second.bias.copy_(bias)
    return made


def _root(moments: Tensor) -> Tensor:
    """Return R `[in, in]` with R R^T = moments, which may be singular: pixels that are never on."""
    values, vectors = torch.linalg.eigh(moments)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
