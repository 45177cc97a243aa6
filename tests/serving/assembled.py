"""A whole gateway in the process of a test: real listeners, real link, real hosts; only no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from serving.cluster.assembly import Assembly
from serving.cluster.description import HostDescription
from serving.link import HostSocket
from serving.settings import Settings
from tests.serving.hosting import hosting
from tests.waiting import until
from variants.catalog import Catalog
from variants.runners import Runner, load_runner


class Told:
    """Knows the hosts that a test has started, as Serve knows those that it runs."""

    def __init__(self, hosts: dict[str, HostSocket]) -> None:
        self._hosts = hosts

    async def list_apps(self) -> dict[str, list[str]]:
        return {variant: [variant] for variant in self._hosts}

    async def describe(self, app: str) -> list[HostDescription]:
        return [HostDescription(self._hosts[app].address, 1, 1_000_000, None)]


@asynccontextmanager
async def assembled(
    catalog: Path, wrap: Callable[[Runner], Runner] = lambda run: run, **settings: Any
) -> AsyncIterator[Assembly]:
    """Serve every variant of a catalog on free ports of this loop, each on a thread of its own.

    What runs a variant is first wrapped by `wrap`.
    """
    described = Catalog.load(catalog)
    free = {"http": {"port": 0}, "grpc": {"port": 0}, "drain_s": 1.0}
    with ExitStack() as stack:
        hosts = {
            name: stack.enter_context(
                hosting(wrap(load_runner(catalog, described.model, variant, threads=1)))
            )
            for name, variant in described.variants.items()
        }
        gateway = Assembly(
            Settings.model_validate({"catalog": catalog, **free, **settings}), Told(hosts)
        )
        await gateway.start()
        try:
            await until(lambda: gateway.is_ready)
            yield gateway
        finally:
            await gateway.close()
            await asyncio.sleep(0)  # what was cancelled ends
