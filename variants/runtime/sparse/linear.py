"""A served sparse Linear layer: a weight packed for the kernels, and a kernel by number of rows.

    features [..., in] ─▶ [rows, in] ─▶ kernel of the table for this number of rows ─▶ [..., out]

Only the packed weight is in memory. A dense copy is, in addition or instead, only if the table
uses it at some number of rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from functools import cached_property, partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.catalog.kernels import DENSE, PACKED_DENSE, LayerKernels
from variants.runtime.kernels import operators, packing
from variants.runtime.kernels.bound import BoundOperator
from variants.runtime.kernels.operators import Kernel
from variants.runtime.sparse.forms import SparseKind, restore_codes

OPERATORS: Final[Mapping[SparseKind, str]] = {
    "linear-2:4": "linear24",
    "linear-2:4-int8": "linear24_int8",
    "linear-sparse": "linear_sparse",
}
"""The operator of each form, by its name in `operators.ALGORITHMS`."""

_AUTO: Final = "auto"
"""The algorithm that selects one of the others by a static rule, which the table does instead."""
_LARGE_BATCH: Final = 32
"""If the table ends at a smaller batch size, the static rule selects the kernel of more rows."""


class LayerWeights:
    """The dense weight and bias of a layer, and how it is stored, from which kernels are made."""

    def __init__(
        self,
        kind: SparseKind,
        weight: Tensor,
        bias: Tensor | None,
        activation: str,
        stored: Mapping[str, Tensor],
    ) -> None:
        """Take a weight FP32 `[out, in]`, a bias FP32 `[out]`, and the tensors of its form."""
        self.kind = kind
        self.weight = weight
        self.bias = bias
        self.activation = activation
        self.stored = stored

    @property
    def kernel_names(self) -> tuple[str, ...]:
        """Names of the kernels that may compute the layer, sparse ones first.

        A layer in INT8 has no dense ones, so that its answers do not depend on the processor.
        """
        algorithms = tuple(
            name for name in operators.ALGORITHMS[OPERATORS[self.kind]] if name != _AUTO
        )
        return algorithms if self.kind == "linear-2:4-int8" else (*algorithms, PACKED_DENSE, DENSE)

    def kernels(self, names: Collection[str]) -> tuple[dict[str, Kernel], dict[str, Tensor]]:
        """Return the kernels by name, and the tensors that they read.

        The weight is packed once for all sparse kernels, and not again in a second call.
        """
        made: dict[str, Kernel] = {}
        tensors: dict[str, Tensor] = {}
        for name in names:
            if name == DENSE:
                tensors["dense"] = self.weight
                made[name] = partial(_dense, self.weight)
            elif name == PACKED_DENSE:
                packed = tensors["packed"] = packing.pack_dense(self.weight)
                made[name] = self._bind("linear_packed", (packed,), "auto")
        sparse = [name for name in names if name not in made]
        if sparse:
            tensors |= self._operands._asdict()
            for name in sparse:
                made[name] = self._bind(OPERATORS[self.kind], self._operands, name)
        return made, tensors

    @cached_property
    def _operands(self) -> packing.Packed24 | packing.Packed24Int8 | packing.PackedSparse:
        match self.kind:
            case "linear-2:4":
                return packing.pack24(self.weight)
            case "linear-2:4-int8":
                return packing.pack24_int8(restore_codes(self.stored), self.stored["scales"])
            case "linear-sparse":
                return packing.pack_sparse(self.weight)

    def _bind(self, operator: str, weight: tuple[Tensor, ...], algorithm: str) -> Kernel:
        out, inputs = self.weight.shape
        return BoundOperator(operator, tuple(weight), inputs, out, algorithm)


class SparseLinear(nn.Module):
    """Equivalent to an `nn.Linear` with the dense weight, and to a ReLU after it if it is fused."""

    bias: Tensor | None

    def __init__(self, weights: LayerWeights, choices: LayerKernels) -> None:
        """Pack the weight for the kernels of `choices`.

        Raises `ValueError` if a kernel is unknown, or if there is no choice.
        """
        super().__init__()
        if not choices.choices:
            raise ValueError(f"a {weights.kind} layer needs a kernel, the table has none")
        names = list(dict.fromkeys(choice.kernel for choice in choices.choices))
        if unknown := set(names) - {*weights.kernel_names}:
            raise ValueError(
                f"unknown kernel {', '.join(sorted(unknown))} of a {weights.kind} layer; there are "
                f"{', '.join(weights.kernel_names)}"
            )
        self.out_features, self.in_features = weights.weight.shape
        self.kind = weights.kind
        self.activation = weights.activation
        self.kernel_names = tuple(names)
        rows = [choice.rows for choice in choices.choices]
        used = [choice.kernel for choice in choices.choices]
        if rows[-1] < _LARGE_BATCH * choices.rows_per_sample and used[-1] not in (
            DENSE,
            PACKED_DENSE,
        ):
            used.append(_AUTO)
        else:
            del rows[-1]
        kernels, tensors = weights.kernels(dict.fromkeys(used))
        for name, tensor in tensors.items():
            self.register_buffer(f"packed_{name}", tensor, persistent=False)
        self.register_buffer("bias", weights.bias, persistent=False)
        self.rows = rows
        self._kernels = [kernels[name] for name in used]

    def forward(self, input: Tensor) -> Tensor:
        """Map FP32 `[..., in]` to FP32 `[..., out]`; `nn.Linear` names its argument so, too."""
        if input.ndim == 2 and input.is_contiguous():
            return self.kernel(len(input))(input, self.bias, self.activation)
        flat = input.reshape(-1, self.in_features).contiguous()
        product = self.kernel(len(flat))(flat, self.bias, self.activation)
        return product.reshape(*input.shape[:-1], self.out_features)

    @property
    def arithmetic(self) -> str:
        """The arithmetic of the layer at the smallest number of rows, such as `int8, sparse`."""
        number = "int8" if self.kind == "linear-2:4-int8" else "float32"
        return number if self.kernel_names[0] in (DENSE, PACKED_DENSE) else f"{number}, sparse"

    @property
    def weight(self) -> Tensor:
        """The dense weight, FP32 `[out, in]`, for code that reads the weights of its layers.

        `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` do so. It is computed by a product
        with the identity, since only the packed form is in memory.
        """
        identity = torch.eye(self.in_features, dtype=torch.float32, device="cpu")
        return self.kernel(len(identity))(identity, None, "none").T.contiguous()

    def kernel(self, rows: int) -> Kernel:
        """Return the kernel for a number of rows. It changes above each of `self.rows`."""
        return self._kernels[bisect_left(self.rows, rows)]


def _dense(weight: Tensor, features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    product = F.linear(features, weight, bias)
    return product.relu_() if activation == "relu" else product
