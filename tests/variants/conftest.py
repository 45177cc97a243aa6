"""Fixtures for all tests of `variants/`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _onnx_operators(onnx_operators: None) -> None:
    """Shorten the exports of all these tests."""


@pytest.fixture(scope="session", autouse=True)
def _fp32_training(fp32_training: None) -> None:
    """Make the trainings of all these tests independent of the kind of processor."""
