"""A sparse Linear layer on a GPU: its candidates, their check, and the module that replaces it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.catalog.kernels import DENSE
from variants.runtime.gpu import products
from variants.runtime.gpu.device import cusparselt_version
from variants.runtime.gpu.products import Product
from variants.runtime.gpu.shapes import CUSPARSELT, INT8_DENSE, Arithmetic, padded, why_not
from variants.runtime.sparse.forms import restore_codes
from variants.runtime.sparse.linear import LayerWeights

SPARSE: Final = "2:4"
"""Kernel name of the product of cuSPARSELt, in the arithmetic of the layer."""

HALF: Final[Arithmetic] = "bfloat16"
"""The 16-bit arithmetic of layers in FP32. BF16 has the range of FP32, so no input overflows."""

TOLERANCE: Final[Mapping[Arithmetic, float]] = {"bfloat16": 1e-2, "float16": 2e-3, "int8": 1e-5}
"""Largest `relative_error` of a product, by its arithmetic."""


def dense_name(arithmetic: Arithmetic) -> str:
    """Return the kernel name of the dense product in an arithmetic."""
    return f"{DENSE} {arithmetic}"


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`, in FP64; NaN stays NaN."""
    difference = actual.double() - expected.double()
    return float(difference.norm() / expected.double().norm().clamp_min(1e-300))


@dataclass(frozen=True, eq=False)
class GpuLayer:
    """The weight of a sparse layer on a device, and the products that may compute the layer."""

    weights: LayerWeights
    device: torch.device
    arithmetic: Arithmetic

    @classmethod
    def of(cls, weights: LayerWeights, device: torch.device, half: Arithmetic = HALF) -> GpuLayer:
        """Return the layer of an artifact; layers that are not INT8 compute in `half`."""
        return cls(weights, device, "int8" if weights.kind == "linear-2:4-int8" else half)

    @property
    def dense_reason(self) -> str:
        """Why there is no sparse product; "" if there is one."""
        if self.weights.kind == "linear-sparse":
            return "GPUs have sparse products for 2:4 only, not for zeros anywhere"
        if not cusparselt_version():
            return "torch has no cuSPARSELt"
        return why_not(self._shape, CUSPARSELT[self.arithmetic])

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The dense products of the layer.

        That of an INT8 layer sums the same integers as the sparse one. It takes any shape that the
        sparse one takes; for others there is the product in FP32.
        """
        if self.arithmetic != "int8":
            return (DENSE, dense_name(self.arithmetic))
        if why_not(self._shape, INT8_DENSE):
            return (DENSE,)
        return (dense_name("int8"),)

    def sparse(self, rows: int, algorithm: int) -> Product:
        """Return the product of cuSPARSELt with an algorithm that was searched for these rows."""
        least = self.padded_rows(rows)
        if self.arithmetic == "int8":
            return products.sparse_int8(self.compressed, self._scales, algorithm, least)
        dtype = products.DTYPES[self.arithmetic]
        return products.sparse_16(self.compressed, dtype, algorithm, least)

    def dense(self, name: str) -> Product:
        """Return the dense product with this name, one of `dense_names`."""
        if name == DENSE:
            return products.dense(self._weight)
        if self.arithmetic == "int8":
            return products.dense_int8(self._codes, self._scales)
        return products.dense_16(self._weight.to(products.DTYPES[self.arithmetic]))

    def search(self, rows: int) -> int:
        """Return the fastest algorithm of cuSPARSELt for a number of rows."""
        columns = self._shape[1]
        return products.search_algorithm(
            self.compressed, self.arithmetic, columns, self.padded_rows(rows)
        )

    def padded_rows(self, rows: int) -> int:
        """Return the rows that cuSPARSELt gets for a number of rows."""
        return padded(rows, CUSPARSELT[self.arithmetic].rows)

    def error(self, product: Product, rows: int) -> float:
        """Return the relative error of a product on random features, against FP64."""
        features = torch.randn(rows, self._shape[1], device=self.device)
        exact = features.double()
        if self.arithmetic == "int8":
            codes, scales = products.quantize_rows(features)
            exact = codes.double() * scales.double()
        return relative_error(product(features, None, "none"), F.linear(exact, self._exact_weight))

    @cached_property
    def compressed(self) -> Tensor:
        """The weight in the form of cuSPARSELt."""
        if self.arithmetic == "int8":
            return products.compress(self._codes)
        return products.compress(self._weight.to(products.DTYPES[self.arithmetic]))

    @property
    def _shape(self) -> tuple[int, int]:
        out, columns = self.weights.weight.shape
        return out, columns

    @cached_property
    def _weight(self) -> Tensor:
        return self.weights.weight.to(self.device).contiguous()

    @cached_property
    def _codes(self) -> Tensor:
        return restore_codes(self.weights.stored).to(self.device).contiguous()

    @cached_property
    def _scales(self) -> Tensor:
        return self.weights.stored["scales"].to(self.device)

    @property
    def _exact_weight(self) -> Tensor:
        if self.arithmetic == "int8":
            return self._codes.double() * self._scales.double()[:, None]
        return self._weight.double()


class GpuLinear(nn.Module):
    """Equivalent to an `nn.Linear`, and to a ReLU after it if it is fused; a product by rows."""

    bias: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        bias: Tensor | None,
        activation: str,
        by_rows: Sequence[tuple[int, Product]],
        larger: Product,
    ) -> None:
        """Take the products by the largest number of rows that each computes, ascending.

        `larger` computes any larger number. It must be dense: an algorithm of cuSPARSELt is right
        only for a shape for which it was searched and checked.
        """
        super().__init__()
        self.out_features, self.in_features = shape
        self.activation = activation
        self.register_buffer("bias", bias, persistent=False)
        self._rows = [rows for rows, _ in by_rows]
        self._products = [*(product for _, product in by_rows), larger]

    def forward(self, input: Tensor) -> Tensor:
        """Map FP32 `[..., in]` to FP32 `[..., out]`; `nn.Linear` names its argument so, too."""
        flat = input.reshape(-1, self.in_features).contiguous()
        product = self._products[bisect_left(self._rows, len(flat))]
        result = product(flat, self.bias, self.activation)
        return result.reshape(*input.shape[:-1], self.out_features)

    @property
    def weight(self) -> Tensor:
        """The dense weight, FP32 `[out, in]`, for code that reads the weights of its layers."""
        device = None if self.bias is None else self.bias.device
        identity = torch.eye(self.in_features, device=device)
        product: Callable[[Tensor, Tensor | None, str], Tensor] = self._products[-1]
        return product(identity, None, "none").T.contiguous()
