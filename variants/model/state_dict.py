"""Compares the tensors of a weights file with those of a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from torch import Tensor

_MAX_NAMES: Final = 3
"""Largest number of tensor names in an error message."""
_PREFIXES: Final = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""Prefixes by wrappers: `nn.DataParallel`, `torch.compile`, and classes that hold a network."""


def mismatches(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps stored tensors from being loaded; none if they fit.

    Floating-point types may differ, since the tensors are converted to those of the network.
    """
    if prefix := _prefix(expected.keys(), stored.keys()):
        return [
            f"its names start with {prefix!r}, which a wrapper has added; save the tensors without "
            f"it: {{name.removeprefix({prefix!r}): tensor for name, tensor in ...}}"
        ]
    problems = []
    if missing := [name for name in expected if name not in stored]:
        problems.append(f"it lacks {_list(missing)}")
    if unknown := [name for name in stored if name not in expected]:
        problems.append(f"the network has no {_list(unknown)}")
    both = [(name, stored[name], tensor) for name, tensor in expected.items() if name in stored]
    if reshaped := [
        f"{name} {list(have.shape)} where the network has {list(want.shape)}"
        for name, have, want in both
        if have.shape != want.shape
    ]:
        problems.append(f"it has {_list(reshaped)}")
    if retyped := [
        f"{name} {_type(have)} where the network has {_type(want)}"
        for name, have, want in both
        if have.dtype != want.dtype
        and not (have.dtype.is_floating_point and want.dtype.is_floating_point)
    ]:
        problems.append(f"it has {_list(retyped)}")
    return problems


def _prefix(expected: Collection[str], stored: Collection[str]) -> str:
    """Return the prefix without which all stored names are those of the network, or ""."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in stored) and {
            name.removeprefix(prefix) for name in stored
        } == {*expected}:
            return prefix
    return ""


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
