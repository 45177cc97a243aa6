"""Gradients of networks that users bring, whose parameters may be of any datatype."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from variants.model.forward import first_line


def differentiable_copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters require gradients.

    Parameters of integers cannot have gradients and are left as they are.
    """
    copied = copy.deepcopy(network).eval()
    for parameter in copied.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    return copied


@contextmanager
def gradient_errors(problem: str) -> Iterator[None]:
    """Replace any error within the context by a `ValueError`: `problem`, a colon and the reason.

    Networks that answer may still have no gradients, for example because they overwrite values.
    """
    try:
        yield
    except Exception as error:  # code of the user may raise any exception
        raise ValueError(f"{problem}: {first_line(error)}") from error
