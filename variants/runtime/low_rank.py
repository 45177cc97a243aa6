"""Low-rank layers: a Linear layer factored into two smaller ones.

    [n, in] ─▶ first: [rank, in], no bias ─▶ second: [out, rank] ─▶ [n, out]

The pair is smaller than the layer if rank < in * out / (in + out), the break-even rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """Replaces an `nn.Linear` by two Linear layers with the same inputs, outputs and bias."""

    def __init__(self, in_features: int, rank: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Map FP32 `[..., in]` to `[..., out]`; `nn.Linear` names its argument so, too."""
        result: Tensor = self.second(self.first(input))
        return result

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.first.in_features

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.second.out_features

    @property
    def weight(self) -> Tensor:
        """Product of the two weights, `[out, in]`, for code that reads the weights of its layers.

        `nn.TransformerEncoderLayer` does so, and uses them for computation in evaluation mode.
        """
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the second layer, `[out]`."""
        return self.second.bias


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Decomposition of a weight `[out, in]` into output directions of descending importance."""

    weight: Tensor
    """The weight, FP64 `[out, in]`."""
    directions: Tensor
    """Orthonormal columns, FP64 `[out, k]`."""
    singular: Tensor
    """Singular values, FP64 `[k]`, descending: root mean square of the output per direction."""

    @classmethod
    def of(cls, weight: Tensor, moments: Tensor | None = None) -> Decomposition:
        """Decompose a weight by its singular values.

        `moments` are the second moments X^T X / n of the layer inputs X, `[in, in]`. With them, the
        singular values are those of the weight times a root of the moments (Wang et al. 2024,
        SVD-LLM, arXiv:2403.07378, with the Cholesky root), and dropping the smallest changes the
        outputs for these inputs least. Without them, the inputs are taken as independent and of
        equal variance.
        """
        weight = weight.detach().double()
        whitened = weight if moments is None else weight @ _root(moments.double())
        directions, singular, _ = torch.linalg.svd(whitened, full_matrices=False)
        return cls(weight, directions, singular)

    def rank_of(self, energy: float) -> int:
        """Return the smallest rank that keeps this share, 0 to 1, of the squared norm."""
        squares = self.singular.square()
        kept = squares.cumsum(0) / squares.sum()
        return min(int((kept < energy).sum()) + 1, len(squares))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return FP32 factors `[rank, in]` and `[out, rank]` whose product approximates the weight.

        Each direction has equal norm in both factors, which suits training and quantization.
        """
        directions = self.directions[:, :rank]
        # The approximation is a projection of the weight, so no root has to be inverted.
        first = directions.T @ self.weight
        length = first.norm(dim=1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return (first / length[:, None]).float(), (directions * length).float()


def break_even(in_features: int, out_features: int) -> float:
    """Return the rank at which both factors together have as many weights as the layer."""
    return in_features * out_features / (in_features + out_features)


def replacement(
    linear: nn.Linear, decomposition: Decomposition, rank: int, inputs: Tensor | None = None
) -> LowRank:
    """Return a low-rank approximation of the layer.

    `inputs` is the mean input of the layer, FP64 `[in]`. With it, the bias compensates the error of
    the weight at the mean input.
    """
    layer = LowRank(linear.in_features, rank, linear.out_features, bias=linear.bias is not None)
    layer = layer.to(linear.weight.dtype).train(linear.training)
    first, second = decomposition.factors(rank)
    with torch.no_grad():
        layer.first.weight.copy_(first)
        layer.second.weight.copy_(second)
        if linear.bias is not None:
            bias = linear.bias.double()
            if inputs is not None:
                bias += (decomposition.weight - second.double() @ first.double()) @ inputs
            layer.second.bias.copy_(bias)
    return layer


def _root(moments: Tensor) -> Tensor:
    """Return R `[in, in]` with R R^T = moments. Singular moments are allowed (constant inputs)."""
    values, vectors = torch.linalg.eigh(moments)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
