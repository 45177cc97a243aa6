"""Settings of all tests that run networks: one thread, and one registry of ONNX functions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def _fast_torch() -> Iterator[None]:
    """Compute with one thread, and build the registry of torch's ONNX exporter once per session.

    The networks are too small for several threads, which slow each other down where tests run in
    parallel. The exporter builds its registry, 500 functions, anew for every export, which takes
    longer than the export of a small network.
    """
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        build = cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(build))
        yield
    torch.set_num_threads(threads)
