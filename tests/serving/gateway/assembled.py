"""Whole gateways in the process of a test: real listeners, real link, real hosts; only no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from serving.gateway.description import HostDescription
from serving.gateway.gateway import Gateway
from serving.gateway.settings import Settings
from tests.serving.link.hosting import hosting
from tests.waiting import until
from variants.catalog.catalog import Catalog
from variants.runtime.runner import Runner, load_runner

Wrap = Callable[[Runner], Runner]


class FakeRegistry:
    """Knows the hosts that a test has started, as Serve knows those that it runs."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """`addresses` by variant, as they are whenever it is asked."""
        self._addresses = addresses

    async def list_apps(self) -> dict[str, list[str]]:
        return {variant: [variant] for variant in self._addresses}

    async def describe(self, app: str) -> list[HostDescription]:
        return [HostDescription(self._addresses[app], 1, 1_000_000, None)]


@contextmanager
def hosted(catalog: Path, wrap: Wrap = lambda run: run) -> Iterator[dict[str, str]]:
    """Run a host of every variant, each on a thread of its own; gives their addresses by variant.

    What runs a variant is first wrapped by `wrap`.
    """
    described = Catalog.load(catalog)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                hosting(wrap(load_runner(catalog, described.model, variant, threads=1)))
            ).address
            for name, variant in described.variants.items()
        }


@asynccontextmanager
async def gateway_of(
    catalog: Path, addresses: Mapping[str, str], **settings: Any
) -> AsyncIterator[Gateway]:
    """Serve the hosts at these addresses on free ports of this loop."""
    free = {"http": {"port": 0}, "grpc": {"port": 0}, "drain_s": 1.0}
    gateway = Gateway(
        Settings.model_validate({"catalog": catalog, **free, **settings}), FakeRegistry(addresses)
    )
    await gateway.start()
    try:
        await until(lambda: gateway.is_ready)
        yield gateway
    finally:
        await gateway.close()
        await asyncio.sleep(0)  # what was cancelled ends


@asynccontextmanager
async def assembled(
    catalog: Path, wrap: Wrap = lambda run: run, **settings: Any
) -> AsyncIterator[Gateway]:
    """Serve every variant of a catalog by hosts of its own, wrapped by `wrap`."""
    with hosted(catalog, wrap) as addresses:
        async with gateway_of(catalog, addresses, **settings) as gateway:
            yield gateway
