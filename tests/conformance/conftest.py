"""Connected clients, for the tests of all clients."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.triton import CLIENTS, Client, connect
from tests.service import RunningService, wait_until_ready


@pytest.fixture(scope="package")
def service(service: RunningService) -> RunningService:
    """The service, with every variant up."""
    wait_until_ready(service)
    return service


@pytest.fixture
def unread_bodies() -> Iterator[None]:
    """For tests whose clients do not read what they are sent, as `is_server_live` does not.

    A body that comes after such a client was closed leaves a connection behind, and aiohttp minds
    when that is collected: without this, sooner or later, in whatever test is running then.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest, service: RunningService) -> AsyncIterator[Client]:
    """Each of tritonclient's clients, connected."""
    async with connect(service, request.param) as connected:
        yield connected
