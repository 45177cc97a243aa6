"""Hosts on a node that has only an empty folder and the URL of the storage, without Ray."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.serving.gateway.lineups import changing_gateway
from tests.serving.gateway.test_generations import BOTH, infer
from tests.waiting import GIVE_UP_S
from variants.catalog import generations
from variants.catalog.catalog import Model
from variants.catalog.storage import Storage

HOST = """
import os, sys
from serving.cluster.host_deployment import HostReplica
from serving.gateway.settings import Settings

host = HostReplica(Settings(catalog=sys.argv[1], artifacts=sys.argv[2]), "coarse", 2)
print(host.describe().address, flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def catalog(two_inputs_catalog: Path, tmp_path: Path) -> Path:
    """A catalog with generation 2 of `coarse`."""
    folder = Path(shutil.copytree(two_inputs_catalog, tmp_path / "catalog"))
    generations.adopt(folder, "coarse", 2)
    return folder


@pytest.fixture
def url(catalog: Path, tmp_path: Path) -> str:
    """The URL of a storage that has this generation."""
    url = f"file://{tmp_path}/bucket"
    Storage(url).upload(catalog, "coarse", 2)
    return url


@contextmanager
def host_process(empty: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a host in its own process within a `with`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(empty), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_host_with_an_empty_folder_fetches_its_generation_and_answers(
    catalog: Path, url: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with host_process(empty, url) as process:
        assert process.stdout is not None
        address = (await asyncio.to_thread(process.stdout.readline)).strip()
        assert address, process.stderr and process.stderr.read()
        assert generations.verify(empty, "coarse", 2) == generations.load(catalog, "coarse", 2)
        assert Model.load(empty) == Model.load(catalog)
        async with changing_gateway(catalog) as changing:
            hosts = [SimpleNamespace(address=address)]
            changing.registry.hosts["coarse", 2] = hosts  # type: ignore[assignment]
            changing.serve(BOTH, {"coarse": 2})
            await changing.becomes("coarse", 2, "warm")
            changing.serve({**BOTH, "coarse": 2})
            await changing.becomes("coarse", 2, "routed")
            base = f"http://127.0.0.1:{changing.gateway.http_port}"
            async with httpx.AsyncClient(base_url=base, timeout=GIVE_UP_S, verify=False) as client:
                answer = await infer(client, variant="coarse")
            assert (answer["status"], answer["generation"]) == (200, 2)


@pytest.mark.parametrize("damage", [b"damaged", None], ids=["wrong hash", "missing"])
def test_a_host_that_cannot_fetch_it_ends_with_the_cause(
    url: str, tmp_path: Path, damage: bytes | None
) -> None:
    record = Storage(url).record("coarse", 2)
    digest = record.files[0].sha256
    path = tmp_path / "bucket" / digest[:2] / digest
    path.unlink() if damage is None else path.write_bytes(damage)
    empty = tmp_path / "empty"
    empty.mkdir()
    with host_process(empty, url) as process:
        _, errors = process.communicate(timeout=GIVE_UP_S)
    cause = errors.strip().splitlines()[-1]  # what Serve reports, and the variant's error has
    assert cause.startswith("ValueError: generation 2 of coarse is not on disk")
    problem = "does not exist" if damage is None else "is damaged"
    assert f"{url}/{digest[:2]}/{digest}" in cause
    assert problem in cause
    assert generations.on_disk(empty) == frozenset()


GATEWAY = """
import sys
from serving.cluster.loading import load_in_gateway
from serving.gateway.settings import Settings
from tests.serving.gateway.two_inputs import inputs

settings = Settings(catalog=sys.argv[1], artifacts=sys.argv[2], hosts={"in_gateway": "all"})
loaded = load_in_gateway(settings, "coarse", 2)
print(loaded.digest, loaded.provider, *loaded.run(inputs(1, 4)))
print("torch" in sys.modules, sys.getswitchinterval() < 0.001)
"""


def test_a_gateway_that_computes_it_fetches_it_too_and_does_not_import_torch(
    catalog: Path, url: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", GATEWAY, str(empty), url],
        capture_output=True,
        text=True,
        check=False,
    )
    digest = generations.digest(generations.load(catalog, "coarse", 2))
    expected = f"{digest} CPUExecutionProvider sums each\nFalse True"
    assert run.stdout.strip() == expected, run.stderr
