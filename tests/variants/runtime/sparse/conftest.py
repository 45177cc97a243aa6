from __future__ import annotations

import pytest

from variants.runtime.kernels import library


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiled library be missing."""
    monkeypatch.setattr(library, "_load", lambda: (None, "there is no compiler"))


@pytest.fixture(params=["compiled", "missing"])
def each_library(request: pytest.FixtureRequest) -> None:
    """Run the test with the compiled kernels and with what stands in for them."""
    if request.param == "missing":
        request.getfixturevalue("missing")
    elif reason := library.missing_reason():
        pytest.skip(reason)
