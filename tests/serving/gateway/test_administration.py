"""A whole gateway with the state of its service: tokens, admin API and extensions."""

from __future__ import annotations

import math
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from serving.control.tokens import digest
from serving.gateway.administration import token_file, variants_meeting
from serving.routing.generation import variant_name
from serving.routing.slo import Slo
from tests.serving.builders import PROFILES
from tests.serving.gateway.running_gateway import gateway_for, running_hosts
from tests.serving.protocol.http.sockets import http_client
from variants.catalog import generations
from variants.catalog.catalog import Catalog


@pytest.fixture
def catalog(two_inputs_catalog: Path, tmp_path: Path) -> Path:
    copy: Path = shutil.copytree(two_inputs_catalog, tmp_path / "catalog")
    return copy


@pytest.fixture
def store(catalog: Path) -> Iterator[Store]:
    with Store(sqlite_url(catalog / ".control/state.db")) as store:
        for name, variant in Catalog.load(catalog).variants.items():
            number = store.adopt(name, generations.digest(variant), variant.recipe)
            generations.adopt(catalog, name, number)
        yield store


@asynccontextmanager
async def connected(
    catalog: Path, store: Store, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    with running_hosts(catalog) as addresses:
        async with (
            gateway_for(catalog, addresses, store, **settings) as gateway,
            http_client(gateway.http_port) as client,
        ):
            yield client


async def test_the_first_start_makes_a_token_that_only_its_owner_can_read(
    catalog: Path, store: Store
) -> None:
    async with connected(catalog, store) as client:
        file = token_file(catalog)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {file.read_text().strip()}"}
        assert (await client.get("/v2/admin/variants")).status_code == 401
        response = await client.get("/v2/admin/variants", headers=headers)
        names = [variant["name"] for variant in response.json()["variants"]]
        assert names == list(Catalog.load(catalog).variants)
        card = response.json()["variants"][0]["card"]
        assert card["accuracy"] > 0
        body = {"name": "other", "recipe": [{"technique": "int8"}]}
        response = await client.post("/v2/admin/variants", json=body, headers=headers)
        assert response.status_code == 501, "there is no project file"
        assert "model_repository" in (await client.get("/v2")).json()["extensions"]
        assert "/v2/admin/variants" in (await client.get("/openapi.json")).json()["paths"]
    async with connected(catalog, store) as client:
        response = await client.get("/v2/admin/variants", headers=headers)
        assert response.status_code == 200, "the token stays the same"


async def test_tokens_of_the_settings_replace_the_file_and_inference_may_need_one(
    catalog: Path, store: Store
) -> None:
    control = {
        "tokens": [{"name": "ci", "scope": "read", "sha256": digest("secret")}],
        "open_inference": False,
    }
    async with connected(catalog, store, control=control) as client:
        assert not token_file(catalog).exists()
        model = (await client.get("/v2/models")).json()["models"][0]
        path = f"/v2/models/{model}/infer"
        assert (await client.post(path, json={})).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        response = await client.post(path, json={}, headers=headers)
        assert response.status_code == 400, "it is let in, and malformed"
        assert (await client.get("/v2/admin/jobs", headers=headers)).status_code == 200


async def test_a_gateway_without_a_store_has_no_admin_api(catalog: Path) -> None:
    with running_hosts(catalog) as addresses:
        async with (
            gateway_for(catalog, addresses) as gateway,
            http_client(gateway.http_port) as client,
        ):
            assert (await client.get("/v2/admin/variants")).status_code == 404
            assert "model_repository" not in (await client.get("/v2")).json()["extensions"]


@pytest.mark.parametrize(
    ("slo", "names"),
    [
        (Slo(), ["dense", "int8"]),
        (Slo(min_accuracy=0.89), ["dense"]),
        (Slo(min_accuracy=0.95), []),
        (Slo(latency_s=0.0007), ["int8"]),
        (Slo(variant="int8"), ["int8"]),
        (Slo(variant="removed", latency_s=math.inf), []),
    ],
)
def test_the_variants_that_meet_an_slo(slo: Slo, names: list[str]) -> None:
    def best_case_s(name: str, size: int) -> float:
        return PROFILES[variant_name(name)].latencies[size].p50_s

    assert sorted(variants_meeting(slo, PROFILES, best_case_s)) == names
