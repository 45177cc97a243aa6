"""A network before its training, as its modules draw their weights by themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn


def initialise(network: nn.Module, seed: int) -> nn.Module:
    """Return a network of the same shape, its weights drawn anew; the given one stays as it is.

    Every module draws its own by `reset_parameters`, as torch's do when they are built; what a
    model's constructor does to them afterwards is not known here.

    Raises `ValueError` that names a module which has parameters and no such method.
    """
    made = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # From the inside out: attention sets the bias of the layer inside it to zero.
        for name, module in reversed(list(made.named_modules())):
            _reset(name, module)
    return made


def _reset(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention):
        module._reset_parameters()
        return
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif own := [key for key, _ in module.named_parameters(recurse=False)]:
        raise ValueError(
            f"{name or 'the network'}, a {type(module).__name__}, has parameters "
            f"({', '.join(own)}) and no reset_parameters() to draw them anew: give it that method"
        )
