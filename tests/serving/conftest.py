"""How the tests of `serving/` use hypothesis, and what several of them share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zmq.asyncio
from hypothesis import HealthCheck, settings

from serving.link.connection import HostConnection
from tests.serving.link.hosting import Connect

# Tests may share their cores with anything: what an example takes says nothing about the code.
settings.register_profile(
    "shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared cores")


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
async def connect(context: zmq.asyncio.Context) -> AsyncIterator[Connect]:
    """Connections that are closed in the end."""
    made = []

    def connect(address: str, on_lost: Callable[[], None] = lambda: None) -> HostConnection:
        made.append(HostConnection(context, address, on_lost))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()
    await asyncio.sleep(0)  # their tasks end


@pytest.fixture(scope="session")
def two_inputs_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of the model of `tests.serving.gateway.two_inputs`; do not alter it."""
    from tests.serving.gateway.two_inputs import write_catalog  # imports onnx, which few tests need

    return write_catalog(tmp_path_factory.mktemp("two") / "catalog")
