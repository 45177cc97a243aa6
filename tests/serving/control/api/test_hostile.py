"""A table of hostile and malformed admin requests, and what each gets. None changes the state."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest

from tests.serving.control.api.administered import (
    ADMIN_TOKEN,
    MAX_BODY_BYTES,
    READ_TOKEN,
    Administered,
    authorization,
)
from tests.serving.protocol.calls import assert_error

VARIANTS = "/v2/admin/variants"
STEP = {"technique": "int8", "parameters": {}}
GOOD = {"name": "tiny", "recipe": [STEP]}


@dataclass(frozen=True)
class Case:
    status: int
    message: str
    method: str = "POST"
    path: str = VARIANTS
    body: Any = field(default_factory=lambda: GOOD)
    token: str | None = ADMIN_TOKEN
    headers: dict[str, str] = field(default_factory=dict)


def recipe(*given: Any) -> dict[str, Any]:
    return {"name": "tiny", "recipe": list(given)}


CASES = {
    "no token": Case(401, "needs a token", token=None),
    "no token to read": Case(401, "needs a token", method="GET", token=None),
    "no token, no such job": Case(401, "needs a token", "GET", "/v2/admin/jobs/x", token=None),
    "an unknown token": Case(401, "the token is not known", token="guessed"),
    "an empty token": Case(401, "the token is not known", token=""),
    "basic authentication": Case(
        401, "the token is not known", token=None, headers={"Authorization": "Basic YTpi"}
    ),
    "a token that is not ASCII": Case(
        401, "the token is not known", token=None, headers={"Authorization": "Bearer \xe4\xff"}
    ),
    "a token to read that adds": Case(403, "may only read", token=READ_TOKEN),
    "a token to read that removes": Case(
        403, "may only read", "DELETE", f"{VARIANTS}/int8", token=READ_TOKEN
    ),
    "a token to read that cancels": Case(
        403, "may only read", path="/v2/admin/jobs/x/cancel", token=READ_TOKEN
    ),
    "a name that leaves the folder": Case(400, "name", body={**GOOD, "name": "../../etc"}),
    "an absolute name": Case(400, "name", body={**GOOD, "name": "/etc/passwd"}),
    "a hidden name": Case(400, "name", body={**GOOD, "name": ".generations"}),
    "a name with a null byte": Case(400, "name", body={**GOOD, "name": "a\0b"}),
    "a name with a line feed": Case(400, "name", body={**GOOD, "name": "tiny\n"}),
    "a long name": Case(400, "name", body={**GOOD, "name": "a" * 64}),
    "a path that leaves the folder": Case(
        404, "no route matches", "DELETE", f"{VARIANTS}/..%2F..%2Fetc"
    ),
    "dots in a path": Case(404, "", "GET", f"{VARIANTS}/%2e%2e"),
    "a recipe by a path": Case(400, "recipe", body={**GOOD, "recipe": "../recipes.yaml"}),
    "a giant recipe": Case(
        413, f"{MAX_BODY_BYTES} bytes; send a shorter recipe", body=recipe(*[STEP] * 1_000)
    ),
    "a giant recipe without a length": Case(
        413, f"larger than {MAX_BODY_BYTES} bytes", body=None, headers={"x-stream": "yes"}
    ),
    "a giant recipe to load": Case(
        413,
        f"{2 * MAX_BODY_BYTES} bytes; send a shorter recipe",
        path="/v2/repository/models/tiny/load",
        body=[0] * MAX_BODY_BYTES,
    ),
    "a giant body to list the repository": Case(
        413, 'send no body, or {"ready": true}', path="/v2/repository/index", body=[0] * 4096
    ),
    "a compression bomb": Case(
        413, f"larger than {MAX_BODY_BYTES} bytes", headers={"Content-Encoding": "gzip"}, body=None
    ),
    "a deep recipe": Case(400, "", body=b'{"name":"tiny","recipe":' + b"[" * 900 + b"]" * 900),
    "an unknown technique": Case(
        400, "unknown technique 'magic'; known techniques: ", body=recipe({"technique": "magic"})
    ),
    "an import path": Case(400, "unknown technique", body=recipe({"technique": "os:system"})),
    "an unknown parameter": Case(
        400, "unknown parameter", body=recipe({"technique": "int8", "parameters": {"path": "/etc"}})
    ),
    "training without end": Case(
        400,
        "at most 100 epochs",
        body=recipe({"technique": "recover", "parameters": {"epochs": 1_000_000}}),
    ),
    "too many steps": Case(400, "at most 8 steps", body=recipe(*[STEP] * 9)),
    "an order that does not work": Case(
        400,
        "cannot follow 'int8'",
        body=recipe(STEP, {"technique": "structured", "parameters": {"share": 0.5}}),
    ),
    "a field of a pickle": Case(
        400, "a step has the fields technique and parameters", body=recipe({**STEP, "pickle": "gA"})
    ),
    "a step without a technique": Case(400, "recipe.0.technique: is required", body=recipe({})),
    "a recipe that is a number": Case(400, "recipe", body={**GOOD, "recipe": 7}),
    "a recipe that is an object": Case(400, "recipe", body={**GOOD, "recipe": {"int8": {}}}),
    "a recipe with not a number": Case(
        400, "JSON", body=b'{"name":"tiny","recipe":[{"technique":"int8","parameters":{"a":NaN}}]}'
    ),
    "an unknown field": Case(
        400, "no such field; the fields are recipe, dry_run", body={**GOOD, "module": "os"}
    ),
    "a flag that is a text": Case(400, "dry_run", body={**GOOD, "dry_run": "no"}),
    "a reason of spaces": Case(400, "reason", body={**GOOD, "reason": "  "}),
    "a long reason": Case(400, "reason", body={**GOOD, "reason": "x" * 501}),
    "no name": Case(400, "name: is required", body={"recipe": [STEP]}),
    "no body": Case(400, "name: is required", body=b""),
    "an array": Case(400, "", body=[]),
    "not JSON": Case(400, "not valid JSON", body=b"{"),
    "not UTF-8": Case(400, "", body=b'{"name": "\xff"}'),
    "a generation that is a text": Case(
        400, "generation", path=f"{VARIANTS}/int8/rollback", body={"generation": "1"}
    ),
    "a generation beyond integers": Case(
        400, "generation", path=f"{VARIANTS}/int8/rollback", body={"generation": 2**63}
    ),
    "no reason to publish": Case(
        400, "reason: is required", path=f"{VARIANTS}/int8/publish", body={"generation": 1}
    ),
    "force that is a text": Case(
        400, "force must be true or false", "DELETE", f"{VARIANTS}/int8?force=yes"
    ),
    "a limit that is too large": Case(
        400, "limit must be an integer from 1 to 200", "GET", "/v2/admin/jobs?limit=1000000"
    ),
    "a negative limit": Case(400, "limit must be", "GET", "/v2/admin/history?limit=-1"),
    "a limit of other digits": Case(400, "limit must be", "GET", "/v2/admin/history?limit=\u0663"),
    "an empty key": Case(400, "Idempotency-Key must have", headers={"Idempotency-Key": ""}),
    "a long key": Case(400, "Idempotency-Key must have", headers={"Idempotency-Key": "k" * 201}),
    "another method": Case(405, "accepts", "PATCH", f"{VARIANTS}/int8"),
    "an unknown path": Case(404, "no route matches", "GET", "/v2/admin/tokens"),
    "a path that only begins alike": Case(404, "no route matches", "GET", "/v2/administrator"),
    "a slash at the end": Case(404, "no route matches", "GET", f"{VARIANTS}/"),
    "a job by a pattern": Case(404, "no job", "GET", "/v2/admin/jobs/%25"),
    "SQL in a name": Case(404, "there are dense, int8", "GET", f"{VARIANTS}/x' OR '1'='1"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_hostile_request_gets_an_error_and_changes_nothing(
    service: Administered, case: Case
) -> None:
    before = (service.store.revision(), service.store.variants(), service.store.jobs())
    response = await send(service, case)
    assert_error(response, case.status, case.message)
    if case.status == 401:
        assert response.headers["www-authenticate"] == 'Bearer realm="paretoserve"'
    if case.status == 405:
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    assert (service.store.revision(), service.store.variants(), service.store.jobs()) == before


async def send(service: Administered, case: Case) -> httpx.Response:
    content: Any = case.body if isinstance(case.body, bytes) else orjson.dumps(case.body)
    if "x-stream" in case.headers:
        content = endless()
    if "Content-Encoding" in case.headers:
        content = gzip.compress(b" " * 1_000_000)
    headers = dict(case.headers)
    if case.token is not None:
        headers |= authorization(case.token)
    # httpx encodes headers in text as ASCII.
    raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    async with service.client(None) as client:
        return await client.request(case.method, case.path, content=content, headers=raw)


async def endless() -> Any:
    while True:
        yield b"[" * 100


async def test_attempts_with_unknown_tokens_are_limited_and_recorded(
    service: Administered,
) -> None:
    async with service.client("guessed") as client:
        responses = [await client.get(VARIANTS) for _ in range(30)]
    statuses = [response.status_code for response in responses]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert int(responses[-1].headers["retry-after"]) >= 1
    assert statuses.count(401) + statuses.count(429) == len(statuses)
    while count_failed(service) < statuses.count(401):
        await asyncio.sleep(0.01)
    assert count_failed(service) == statuses.count(401)


def count_failed(service: Administered) -> int:
    return sum(each.action == "login failed" for each in service.store.history())


async def test_an_unexpected_error_is_logged_and_not_shown(
    service: Administered, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(service.store, "variants", fail)
    async with service.client() as client:
        assert_error(await client.get(VARIANTS), 500, "internal error; the cause was logged")
    assert "a secret path" in caplog.text
