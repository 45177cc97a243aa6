from __future__ import annotations

import math

import pytest


@pytest.fixture(autouse=True)
def no_exploration(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shadow batches: they would count as batches of variants that a test does not use."""
    monkeypatch.setattr("serving.routing.exploration.EXPLORE_AFTER_S", math.inf)
