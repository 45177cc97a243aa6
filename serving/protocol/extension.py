"""Protocol extensions that a tensor's parameters can request and that are not supported."""

from __future__ import annotations

from collections.abc import Iterable

from serving.errors import Unsupported


def check_supported(parameters: Iterable[str]) -> None:
    """Raise `Unsupported` if a tensor's parameter names request an unsupported extension."""
    for name in parameters:
        if name.startswith("shared_memory_"):
            raise Unsupported("shared memory is not supported; send the tensor's bytes")
        if name == "classification":
            raise Unsupported("the classification extension is not supported")
