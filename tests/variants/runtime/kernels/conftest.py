"""Fixtures that run a test with every instruction set, and with torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from variants.runtime.kernels import compiled, library, operators

TORCH = "torch"


@pytest.fixture(params=(*library.INSTRUCTION_SETS, TORCH))
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the operators with one instruction set, or as without the compiled library."""
    with using(request.param):
        yield request.param


class using:  # noqa: N801 - reads as a statement
    """Select the implementation of the operators in a block of code; skip if it is missing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        if self._name == TORCH:
            self._patch.setattr(operators, "is_compiled", lambda: False)
            return
        if not library.is_compiled():
            pytest.skip(library.missing_reason())
        if self._name not in library.supported_instruction_sets():
            pytest.skip(f"this processor does not support {self._name}")
        self._patch.setenv(library.VARIABLE, self._name)
        compiled.forget_instruction_set()

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
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
