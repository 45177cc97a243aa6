"""Fusion of a Linear layer with the ReLU after it, which the sparse kernels compute as well.

nn.Sequential(Linear, ReLU, ...) ─▶ nn.Sequential(SparseLinear with ReLU, Identity, ...)
"""

from __future__ import annotations

from torch import nn


def is_followed_by_relu(network: nn.Module, name: str) -> bool:
    """Return whether the module with this name is followed by a ReLU in an `nn.Sequential`.

    Subclasses are left alone, since they may use their modules in another order.
    """
    return _next_name(network, name) is not None


def remove_relu(network: nn.Module, name: str) -> None:
    """Replace the ReLU after the module with this name by an identity.

    Raises `ValueError` if there is none.
    """
    following = _next_name(network, name)
    if following is None:
        raise ValueError(f"the plan fuses layer {name!r} with a ReLU, the network has none there")
    network.set_submodule(following, nn.Identity())


def _next_name(network: nn.Module, name: str) -> str | None:
    """Return the name of the ReLU after a module."""
    owner, _, key = name.rpartition(".")
    parent = network.get_submodule(owner)
    if type(parent) is not nn.Sequential:
        return None
    keys = list(parent._modules)
    following = keys.index(key) + 1
    if following == len(keys) or type(parent[following]) is not nn.ReLU:
        return None
    return f"{owner}.{keys[following]}" if owner else keys[following]
