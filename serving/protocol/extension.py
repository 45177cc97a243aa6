"""Extensions that a tensor's parameters ask for, and that are not offered here."""

from __future__ import annotations

from collections.abc import Iterable

from serving.errors import Unsupported


def check_offered(parameters: Iterable[str]) -> None:
    """Raise `Unsupported` if the parameter names of a tensor ask for what is not offered."""
    for name in parameters:
        if name.startswith("shared_memory_"):
            raise Unsupported("shared memory is not offered here; send the tensor's bytes")
        if name == "classification":
            raise Unsupported("the classification extension is not offered here")
