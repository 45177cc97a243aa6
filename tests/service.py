"""A running service for tests, and the expected answers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serving.control.tokens import digest
from serving.gateway.settings import Settings
from tests.waiting import GIVE_UP_S, wait_until
from variants.catalog.catalog import Catalog
from variants.runtime.runner import load_runner

SIZE = 784

ADMIN_TOKEN, READ_TOKEN = "the-token-of-an-admin", "the-token-of-a-reader"

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunningService:
    """A running service, and the catalog that it serves."""

    port: int
    grpc_port: int
    catalog: Catalog
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        # Without `verify`, a client does not load certificates, which takes 50 ms of CPU time.
        return httpx.Client(base_url=self.url, timeout=GIVE_UP_S, verify=False)

    def infer(
        self,
        client: httpx.Client,
        pixels: Pixels,
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

    def answers(self, variant: str, pixels: Pixels) -> Pixels:
        """Return what the variant answers without a service."""
        runner = load_runner(
            self.folder, self.catalog.model, self.catalog.variants[variant], threads=1
        )
        return runner({"input": pixels})["logits"]

    def check(self, variant: str, pixels: Pixels, logits: Pixels) -> None:
        """Fail unless these are the logits of the variant, up to the rounding of the batch size."""
        np.testing.assert_allclose(logits, self.answers(variant, pixels), rtol=1e-4, atol=1e-4)


@contextmanager
def run_service(folder: Path) -> Iterator[RunningService]:
    """Serve all variants of the catalog in `folder` on free ports, with an experiment at 80/20."""
    from serving.cluster.environment import set_environment

    set_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of ray and its imports
        import ray

        from serving.cluster.start import local_cluster, start_service
        from serving.cluster.start_failure import NotStarted

        catalog = Catalog.load(folder)
        settings = Settings.model_validate(
            {
                "catalog": folder,
                "http": {"port": 0},
                "grpc": {"port": 0},
                "drain_s": 5.0,
                "control": {
                    "tokens": [
                        {"name": "admin", "scope": "admin", "sha256": digest(ADMIN_TOKEN)},
                        {"name": "reader", "scope": "read", "sha256": digest(READ_TOKEN)},
                    ]
                },
                "experiment": {
                    "name": "int8-or-not",
                    "arms": [
                        {"name": "control", "target": "router", "weight": 80},
                        {"name": "treatment", "target": "int8", "weight": 20},
                    ],
                },
            }
        )
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            # What processes log would be printed in later tests.
            patch.setattr(ray, "init", partial(ray.init, log_to_driver=False))
            for _ in range(2):  # Ray has a time limit of 30 s, which a busy machine may exceed
                with suppress(NotStarted):
                    stack.enter_context(local_cluster())
                    break
                ray.shutdown()
            else:
                stack.enter_context(local_cluster())
            ports = start_service(settings)
            yield RunningService(ports.http, ports.grpc, catalog, folder)


def images(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).random((count, SIZE), dtype=np.float32)


def metric_value(text: str, name: str, **labels: str) -> float:
    """Return the sum of all series with this name and these labels, in Prometheus text."""
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name:
            series_labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if labels.items() <= series_labels.items():
                total += float(match[3])
    return total


def wait_until_ready(service: RunningService) -> None:
    """Return once every variant has a live replica."""
    with service.client() as client:
        for name in service.catalog.variants:
            path = f"/v2/models/{service.catalog.model.name}/versions/{name}/ready"
            wait_until(partial(_is_ok, client, path))


def _is_ok(client: httpx.Client, path: str) -> bool:
    return client.get(path).status_code == 200
