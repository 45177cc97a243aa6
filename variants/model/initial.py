"""Random initialization of networks by the `reset_parameters` methods of their modules."""

from __future__ import annotations

import copy

import torch
from torch import nn


def initialize(network: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the network with newly drawn weights.

    Each module draws its weights in `reset_parameters`, as the constructors of torch modules do.
    Further initialization in the constructor of the model is not repeated.

    Raises `ValueError` with the name of a module that has parameters but no such method.
    """
    copied = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Inner modules first: attention sets the bias of its output layer to zero.
        for name, module in reversed(list(copied.named_modules())):
            _reset(name, module)
    return copied


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
            f"({', '.join(own)}) but no reset_parameters() method to initialize them: add one"
        )
