"""The service under test: one that the benchmark starts, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from loadtests.client import binary
from loadtests.client.http import build_post_request
from loadtests.client.service import connect
from loadtests.live.service import LiveService, run_service
from loadtests.steady.load import DEFAULT_CONNECTIONS, Load
from serving.gateway.settings import Settings

VARIETY: Final = 16
"""Number of different requests that are sent in rotation."""


@dataclass(frozen=True)
class ClientSettings:
    """How the client sends, whatever the load is."""

    connections: int = DEFAULT_CONNECTIONS
    """Maximum number of connections of the open loop."""
    keeps_connections: bool = True
    obeys_retry_after: bool = False
    is_real_time: bool = True


@dataclass(frozen=True)
class Target:
    """A service that is ready, and how the client sends to it."""

    host: str
    port: int
    path: str
    metadata: Any
    """V2 metadata of the model."""
    client: ClientSettings
    service: LiveService | None = None
    """The service if the benchmark has started it."""

    def load(self, deadline_ms: float, seconds: float, **fields: Any) -> Load:
        """Return a load of requests with a deadline; `fields` are further fields of `Load`."""
        parameters = {"slo_latency_ms": deadline_ms}
        requests = binary.random_requests(self.metadata, VARIETY, parameters)
        return Load(
            host=self.host,
            port=self.port,
            requests=tuple(build_post_request(self.path, r.body, r.headers) for r in requests),
            seconds=seconds,
            connections=self.client.connections,
            keeps_connections=self.client.keeps_connections,
            obeys_retry_after=self.client.obeys_retry_after,
            is_real_time=self.client.is_real_time,
            **fields,
        )


def find_target(url: str, client: ClientSettings, service: LiveService | None = None) -> Target:
    """Return the target at a URL.

    Raises ValueError with a remedy if it is no http URL, or as `connect` does.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the URL must be http://HOST:PORT, got {url!r}")
    description = connect(url.rstrip("/"))
    path = parts.path.rstrip("/") + description.path
    return Target(parts.hostname, parts.port or 80, path, description.metadata, client, service)


@contextmanager
def open_target(
    catalog: Path, url: str | None, policy: str, client: ClientSettings
) -> Iterator[Target]:
    """Find the service at a URL, or start one with a policy on free ports and stop it on exit.

    Raises RuntimeError with the reason if the service does not start, and as `find_target` does.
    """
    if url is not None:
        yield find_target(url, client)
        return
    settings = Settings.model_validate(
        {"catalog": catalog, "policy": policy, "http": {"port": 0}, "grpc": {"port": 0}}
    )
    with run_service(settings) as service:
        yield find_target(service.url, client, service)
