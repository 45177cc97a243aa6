"""Where a gateway learns which hosts run: the registry, and what it says of a generation."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from serving.gateway.description import HostDescription
from serving.gateway.watch import Watch
from serving.link.pool import HostPool

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the replicas of a generation to describe themselves."""

FAILURE_PERIOD_S: Final = 1.0
"""Minimum time, in seconds, between two queries why a generation has no hosts."""


class Registry(Protocol):
    """The source of applications and their hosts: Serve in production."""

    async def list_apps(self) -> dict[tuple[str, int], str]:
        """Return the names of the applications by variant and generation.

        Raises if they are not known now.
        """

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application; raise if one is missing."""

    async def failure(self, app: str) -> str | None:
        """Return why the hosts of an application cannot start; None if nothing is known."""


async def describe_hosts(
    registry: Registry, pool: HostPool, watch: Watch, app: str | None
) -> list[HostDescription] | None:
    """Return the descriptions of all hosts of a generation, or None if one did not answer."""
    if app is None:
        return []
    hosts: list[HostDescription] | None = None
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            hosts = await registry.describe(app)
    except Exception as error:  # a starting application has no replicas yet
        logger.debug("no description of the hosts of %s: %r", watch.key, error)
    if not hosts and not pool.hosts(watch.key):
        await _find_failure(registry, watch, app)
    return hosts


async def _find_failure(registry: Registry, watch: Watch, app: str) -> None:
    """Record why a generation has no hosts, if the registry knows."""
    now = time.monotonic()
    if now - watch.failure_checked_at < FAILURE_PERIOD_S:
        return
    watch.failure_checked_at = now
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            error = await registry.failure(app)
        if error is not None:  # else it may be starting again, which does not mean that it can
            watch.fail(error)
    except Exception as error:
        logger.debug("no status of the hosts of %s: %r", watch.key, error)
