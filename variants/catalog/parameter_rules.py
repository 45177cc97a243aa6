"""Rules that concern several parameters of a technique together, and are not in its JSON schema.

    techniques (variants.compression.techniques) ─┐
    recipes from the network (serving.control) ───┴─▶ parameters_error

The techniques check them when a recipe is built, and a service, which does not import torch, when
it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Parameters: TypeAlias = Mapping[str, Any]
"""The parameters of a step, with the defaults of those that it does not set."""

_NO_GLOBAL_SCOPE: Final = {
    "wanda": "its scores compare the weights of one output; the input norms of different layers "
    "are not comparable",
    "sparsegpt": "it prunes one layer after the other, each by the error of its own output",
}


def parameters_error(technique: str, parameters: Parameters) -> str | None:
    """Return why valid parameters cannot be combined; None if they can.

    A parameter that is missing is not checked.
    """
    rule = _RULES.get(technique)
    return (rule(parameters) if rule else None) or rounds_error(parameters)


def rounds_error(parameters: Parameters) -> str | None:
    """Return why there cannot be training between the rounds of a step; None if there can."""
    if parameters.get("recover") is not None and parameters.get("rounds") == 1:
        return (
            "training between rounds needs rounds of at least 2; to train after pruning, add a "
            "step `recover`"
        )
    return None


def _n_m_error(parameters: Parameters) -> str | None:
    n, m = parameters.get("n", 0), parameters["m"]
    return f"m must be larger than n, which is {n}" if m <= n else None


def _activation_error(parameters: Parameters) -> str | None:
    names = ("mean_below", "deviation_below")
    thresholds = sum(parameters.get(name) is not None for name in names)
    if thresholds != (2 if parameters.get("share") is None else 0):
        return "set either both mean_below and deviation_below, or share"
    return None


def _low_rank_error(parameters: Parameters) -> str | None:
    if (parameters.get("energy") is None) == (parameters.get("break_even") is None):
        return "set either energy or break_even: each decides the rank"
    return None


def _unstructured_error(parameters: Parameters) -> str | None:
    shares, criterion = parameters.get("shares"), parameters.get("criterion", "")
    if (parameters.get("share") is None) == (not shares):
        return "set either share, for all layers, or shares, by layer"
    if parameters.get("scope", "layer") != "global":
        return None
    if criterion in _NO_GLOBAL_SCOPE:
        return (
            f"{criterion} does not support the scope global: {_NO_GLOBAL_SCOPE[criterion]}; use "
            "the scope layer"
        )
    return "shares are set by layer, so the scope must be layer" if shares else None


_RULES: Final[Mapping[str, Callable[[Parameters], str | None]]] = {
    "activation-pruning": _activation_error,
    "low-rank": _low_rank_error,
    "sparse-n:m": _n_m_error,
    "unstructured": _unstructured_error,
}
"""By technique."""
