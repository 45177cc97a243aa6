"""Fixtures: a service with an admin API, and a client with a token that may change it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.serving.control.api.administered import Administered, administered


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Administered]:
    async with administered(tmp_path) as service:
        yield service


@pytest.fixture
async def client(service: Administered) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client() as client:
        yield client
