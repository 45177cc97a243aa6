"""One Ray cluster, with one service in it, for all tests that need a real one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serving.settings import Settings
from tests.waiting import wait_until
from variants.catalog import Catalog
from variants.runners import load_runner

SIZE = 784


@dataclass(frozen=True)
class Service:
    """A running service, and the catalog it serves."""

    port: int
    catalog: Catalog
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def infer(
        self,
        client: httpx.Client,
        pixels: npt.NDArray[np.float32],
        parameters: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        document = {
            "parameters": parameters or {},
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": list(pixels.shape),
                    "data": pixels.reshape(-1).tolist(),
                }
            ],
        }
        path = f"/v2/models/{self.catalog.model.name}/infer"
        return client.post(path, json=document, headers=headers)

    def answers(self, variant: str, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the variant itself answers, without a service."""
        runner = load_runner(
            self.folder, self.catalog.model, self.catalog.variants[variant], threads=1
        )
        return runner({"input": pixels})["logits"]


@pytest.fixture(scope="session")
def service(small_catalog: Path) -> Iterator[Service]:
    """All four variants of the small model, served on a free port, with an experiment at 80/20."""
    from serving.cluster.environment import set_environment

    set_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of ray and what it imports are not ours to mend
        from serving.cluster.start import cpus_needed, local_cluster, start_service

        catalog = Catalog.load(small_catalog)
        settings = Settings.model_validate(
            {
                "catalog": small_catalog,
                "http": {"port": 0},
                "drain_s": 5.0,
                "experiment": {
                    "name": "int8-or-not",
                    "arms": [
                        {"name": "control", "target": "router", "weight": 80},
                        {"name": "treatment", "target": "int8", "weight": 20},
                    ],
                },
            }
        )
        with local_cluster(cpus_needed(settings, len(catalog.variants))):
            port = start_service(settings)
            yield Service(port, catalog, small_catalog)


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run something over and over on threads of its own until the test ends; it must not fail."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(work: Callable[[], None]) -> None:
        def loop() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=loop))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def ready(service: Service) -> None:
    """Wait until every variant has a live replica."""
    with service.client() as client:
        for name in service.catalog.variants:
            path = f"/v2/models/{service.catalog.model.name}/versions/{name}/ready"
            wait_until(partial(_is_ok, client, path))


def _is_ok(client: httpx.Client, path: str) -> bool:
    return client.get(path).status_code == 200
