"""Fixtures: the service, and each client of tritonclient connected to it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.triton import CLIENTS, Client, connect
from tests.service import RunningService


@pytest.fixture
def unread_bodies() -> Iterator[None]:
    """For tests whose clients do not read a response body, such as that of `is_server_live`.

    If the body arrives after the client was closed, a connection stays open. aiohttp warns when it
    is garbage-collected, which without this fixture could happen in any later test.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest, service: RunningService) -> AsyncIterator[Client]:
    """Each client of tritonclient, connected to the service."""
    async with connect(service, request.param) as connected:
        yield connected
