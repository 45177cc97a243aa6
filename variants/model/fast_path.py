"""Switches torch's fast path of transformer encoders off, which bypasses their layers.

In evaluation mode `nn.TransformerEncoder` and `nn.MultiheadAttention` may compute in one fused
call. It does not call their layers, so hooks, kernels and replaced layers have no effect; packs
batches with padding into nested tensors, which most operations reject; and sets the outputs of
padding to zero, which neither training nor an exported graph does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Call every layer inside the context. The setting belongs to the whole process."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
