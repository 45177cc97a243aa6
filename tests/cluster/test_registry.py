"""The registry of hosts that Serve provides, with a real Serve."""

from __future__ import annotations

import pytest

from tests.service import RunningService

pytestmark = pytest.mark.cluster


async def test_applications_are_listed_by_variant_and_generation(service: RunningService) -> None:
    from serving.cluster.names import app_name
    from serving.cluster.registry import ServeRegistry

    registry = ServeRegistry()
    apps = await registry.list_apps()
    assert apps["int8", 1] == app_name("int8", 1)
    assert await registry.failure(apps["int8", 1]) is None
    assert await registry.failure(app_name("int8", 99)) is None
