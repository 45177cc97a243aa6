"""Fixtures that run a test with every instruction set, and with torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from variants.runtime.kernels import compiled, library

TORCH = "torch"


@pytest.fixture(params=(*library.INSTRUCTION_SETS, TORCH))
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the operators with one instruction set, or as without the compiled library."""
    with using(request.param):
        yield request.param


@contextmanager
def using(name: str) -> Iterator[None]:
    """Select the implementation of the operators in a block of code; skip if it is missing."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            if name == TORCH:
                patch.setattr(library, "is_compiled", lambda: False)
            elif not library.is_compiled():
                pytest.skip(library.missing_reason())
            elif name not in library.supported_instruction_sets():
                pytest.skip(f"this processor does not support {name}")
            else:
                patch.setenv(library.VARIABLE, name)
                compiled.forget_instruction_set()
            yield
    finally:
        compiled.forget_instruction_set()


def available() -> list[str]:
    """Return the implementations that can run here."""
    return [*(library.supported_instruction_sets() if library.is_compiled() else ()), TORCH]


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads of torch."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
