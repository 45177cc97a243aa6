"""Paretoserve as a target: one service, pinned to the dense variant and routed by a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadtests.live.service import run_service
from loadtests.peers.exchange import v2_binary
from loadtests.peers.reference import Reference
from loadtests.peers.target import Running, Scenario, Target
from serving.gateway.settings import Settings
from variants.catalog.recipe import DENSE

NAME: Final = "paretoserve"
DEADLINE_MS: Final = 1000


def target(catalog: Path, reference: Reference) -> Target:
    """Return the service of a catalog, with all of its variants."""
    path = f"/v2/models/{reference.model.name}"
    send = partial(v2_binary, features=reference.features, model=reference.model)
    pinned = send(f"{path}/versions/{DENSE}/infer")
    routed = send(f"{path}/infer", parameters={"slo_latency_ms": DEADLINE_MS})
    return Target(
        NAME,
        partial(_start, catalog),
        (
            Scenario("paretoserve, pinned to dense", pinned, reference.dense),
            Scenario(f"paretoserve, routed, {DEADLINE_MS} ms", routed, reference.logits),
        ),
    )


@contextmanager
def _start(catalog: Path) -> Iterator[Running]:
    settings = Settings.model_validate(
        {"catalog": catalog, "http": {"port": 0}, "grpc": {"port": 0}}
    )
    with run_service(settings) as service:
        port = urlsplit(service.url).port
        assert port is not None
        yield Running(port, lambda: None)
