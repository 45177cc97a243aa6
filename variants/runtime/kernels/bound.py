"""An operator with the packed weight of a layer, which is checked once.

operator, packed weight ─▶ checked with a row of zeros ─▶ BoundOperator(features, bias, activation)

In a small layer, checking the weight takes longer than the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from variants.runtime.kernels import compiled, library, operators


class BoundOperator:
    """Maps features, bias and activation to a result, as the operator does; see `operators`."""

    def __init__(
        self, operator: str, weight: tuple[Tensor, ...], inputs: int, outputs: int, algorithm: str
    ) -> None:
        """Take what `packing` returned for a weight `[outputs, inputs]`.

        Raises `ValueError` if it does not fit the operator.
        """
        self.operator = operator
        self.weight = weight
        self.inputs = inputs
        self.outputs = outputs
        self.algorithm = algorithm
        self._checked(torch.zeros(1, inputs, dtype=torch.float32, device="cpu"), None, "none")
        self._run = self._checked
        if library.is_compiled():
            self._kernel = compiled.bind(operator, self.numbers, outputs, algorithm)
            self._run = self._compiled

    @property
    def numbers(self) -> tuple[int, ...]:
        """What a compiled operator takes as the weight: addresses, and the nonzeros if any."""
        addresses = tuple(tensor.data_ptr() for tensor in self.weight)
        if self.operator == "linear_sparse":
            return (*addresses, self.weight[0].numel())
        return addresses

    def __call__(self, features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        """Compute `activation(features @ weight.T + bias)`."""
        return self._run(features, bias, activation)

    def _checked(self, features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        function = operators.OPERATORS[self.operator]
        out = () if self.operator == "linear_sparse" else (self.outputs,)
        return function(features, *self.weight, bias, *out, activation, self.algorithm)

    def _compiled(self, features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        if operators.is_traced(features):
            return self._checked(features, bias, activation)
        operators.check(self.operator, features, bias, self.outputs, activation, self.algorithm)
        if features.shape[1] != self.inputs:
            raise ValueError(f"expected features [rows, {self.inputs}], got {[*features.shape]}")
        return self._kernel(features, bias, activation)
