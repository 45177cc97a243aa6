"""Whole gateways in the process of a test, with real listeners, links and hosts, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from serving.control.store.store import Store
from serving.gateway.description import HostDescription
from serving.gateway.gateway import Gateway
from serving.gateway.settings import Settings
from tests.serving.link.hosts import running_host
from tests.waiting import until
from variants.catalog.catalog import Catalog
from variants.catalog.device import PROVIDERS
from variants.catalog.generations import digest
from variants.runtime.runner import Runner, load_runner

Wrap = Callable[[Runner], Runner]


class FakeRegistry:
    """A registry of the hosts that a test has started, in the place of Serve."""

    def __init__(self, catalog: Path, addresses: Mapping[str, str]) -> None:
        """`addresses` are by variant; later changes of the mapping take effect."""
        self._addresses = addresses
        self._variants = Catalog.load(catalog).variants

    async def list_apps(self) -> dict[tuple[str, int], str]:
        return {(variant, 1): variant for variant in self._addresses}

    async def describe(self, app: str) -> list[HostDescription]:
        own = digest(self._variants[app])
        return [
            HostDescription(
                self._addresses[app], 1, 1_000_000, None, PROVIDERS["cpu"], own, served_for_s=0.0
            )
        ]

    async def failure(self, app: str) -> str | None:
        return None


@contextmanager
def running_hosts(catalog: Path, wrap: Wrap = lambda run: run) -> Iterator[dict[str, str]]:
    """Run a host of every variant, each on its own thread; yield their addresses by variant.

    `wrap` wraps the runner of each variant.
    """
    loaded = Catalog.load(catalog)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                running_host(wrap(load_runner(catalog, loaded.model, variant, threads=1)))
            ).address
            for name, variant in loaded.variants.items()
        }


@asynccontextmanager
async def gateway_for(
    catalog: Path, addresses: Mapping[str, str], store: Store | None = None, /, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway on free ports in this event loop, for the hosts at these addresses."""
    free = {"http": {"port": 0}, "grpc": {"port": 0}, "drain_s": 1.0}
    gateway = Gateway(
        Settings.model_validate({"catalog": catalog, **free, **settings}),
        FakeRegistry(catalog, addresses),
        store,
    )
    await gateway.start()
    try:
        await until(lambda: gateway.is_ready)
        yield gateway
    finally:
        await gateway.close()
        await asyncio.sleep(0)  # lets cancelled tasks end


@asynccontextmanager
async def running_gateway(
    catalog: Path, wrap: Wrap = lambda run: run, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with one host of every variant, whose runner `wrap` wraps."""
    with running_hosts(catalog, wrap) as addresses:
        async with gateway_for(catalog, addresses, **settings) as gateway:
            yield gateway
