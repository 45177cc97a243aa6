"""Calls the compiled kernels. Shapes and dtypes must have been checked: the kernels trust them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import Tensor

from variants.runtime.kernels.library import INSTRUCTION_SETS, instruction_set, loaded

ALGORITHMS: Final = {"auto": 0, "rows": 1, "panel": 2}
"""Numbers of the algorithms in the library."""
_INT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_START: Final = (_INT, _INT, _INT, _SIZE, _SIZE, _SIZE, _POINTER)
_END: Final = (_POINTER, _INT, _POINTER)
_PARAMETERS: Final = {
    "linear24": (*_START, _POINTER, _POINTER, *_END),
    "linear24_int8": (*_START, _POINTER, _POINTER, _POINTER, _POINTER, *_END),
    "linear_sparse": (*_START, _POINTER, _POINTER, _POINTER, _SIZE, *_END),
    "linear_packed": (*_START, _POINTER, *_END),
    "linear_packed_int8": (*_START, _POINTER, _POINTER, _POINTER, *_END),
}
"""Types of the parameters in `source/interface.cpp`. ctypes releases the GIL in the calls."""


def call(
    operator: str,
    features: Tensor,
    weight: tuple[int, ...],
    bias: Tensor | None,
    out_features: int,
    activation: str,
    algorithm: str,
) -> Tensor:
    """Run an operator; `weight` has the addresses of its packed tensors, and its other numbers."""
    return bind(operator, weight, out_features, algorithm)(features, bias, activation)


def bind(
    operator: str, weight: tuple[int, ...], out_features: int, algorithm: str
) -> Callable[[Tensor, Tensor | None, str], Tensor]:
    """Return an operator with its weight, as a function of features, bias and activation."""
    function, selected = _function(operator)
    number = ALGORITHMS[algorithm]

    def run(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        rows, inputs = features.shape
        result = features.new_empty(rows, out_features)
        error = function(
            selected,
            number,
            torch.get_num_threads(),
            rows,
            inputs,
            out_features,
            features.data_ptr(),
            *weight,
            None if bias is None else bias.data_ptr(),
            activation == "relu",
            result.data_ptr(),
        )
        if error:
            raise MemoryError(f"no memory to rearrange features {list(features.shape)}")
        return result

    return run


@cache
def chain() -> tuple[Callable[..., int], int]:
    """Return `paretoserve_chain` of `source/chain.cpp`, and the number of the instruction set."""
    function = loaded().paretoserve_chain
    function.argtypes = (_INT, _INT, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER)
    function.restype = _INT
    return function, INSTRUCTION_SETS.index(instruction_set())


@cache
def _function(operator: str) -> tuple[Callable[..., int], int]:
    function = getattr(loaded(), f"paretoserve_{operator}")
    function.argtypes = _PARAMETERS[operator]
    function.restype = _INT
    return function, INSTRUCTION_SETS.index(instruction_set())


def forget_instruction_set() -> None:
    """Read the environment variable again at the next call."""
    _function.cache_clear()
    chain.cache_clear()
