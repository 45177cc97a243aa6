"""Shared fixtures for the tests of `serving/`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serving.link.connection import HostConnection
from serving.protocol.failure import BUDGET
from tests.serving.link.hosts import Connect


@pytest.fixture(autouse=True)
def unused_budget() -> None:
    """Let each test log failed requests as if it were the first."""
    BUDGET.clear()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """A function that connects to a host; the connections are closed after the test."""
    connections = []

    def connect(address: str, on_lost: Callable[[], None] = lambda: None) -> HostConnection:
        connections.append(HostConnection(address, on_lost))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture(scope="session")
def two_inputs_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of the model of `tests.serving.gateway.two_inputs`; do not change it."""
    from tests.serving.gateway.two_inputs import write_catalog  # imports onnx, which few tests need

    return write_catalog(tmp_path_factory.mktemp("two") / "catalog")
