"""The OpenAPI document describes the admin API as it is."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import httpx
import jsonschema
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from serving.control.api.application import ROUTES
from serving.control.api.openapi import extend_openapi
from serving.protocol.openapi.document import openapi_document
from tests.serving.builders import MODEL, PROFILES
from tests.serving.control.api.administered import READ_TOKEN, Administered

Json = dict[str, Any]

DOCUMENT = openapi_document(
    MODEL, list(PROFILES), version="1.2.3", max_batch=64, max_body_bytes=1_000_000
)
extend_openapi(DOCUMENT)
ADMIN = "/v2/admin"
METHODS = ("get", "post", "delete")
OPERATIONS = [
    (method, path)
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item and path.startswith((ADMIN, "/v2/repository/models"))
]


def resolve(part: Json) -> Json:
    while "$ref" in part:
        _, kind, name = part["$ref"].removeprefix("#/").split("/")
        part = DOCUMENT["components"][kind][name]
    return part


def assert_documented(method: str, path: str, response: httpx.Response) -> None:
    """Fail unless the document describes this response."""
    operation = DOCUMENT["paths"][path][method]
    documented = resolve(operation["responses"][str(response.status_code)])
    for name, header in documented.get("headers", {}).items():
        assert name.lower() in response.headers or not header["required"]
    content_type = response.headers["content-type"].partition(";")[0]
    schema = documented["content"][content_type]["schema"]
    if content_type == "application/json":
        root = {**DOCUMENT, **copy.deepcopy(schema)}
        jsonschema.Draft202012Validator(root).validate(response.json())


def test_the_document_is_valid_openapi_3_1() -> None:
    jsonschema.Draft202012Validator(OPENAPI_31).validate(json.loads(json.dumps(DOCUMENT)))
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_has_a_component_and_every_component_a_reference() -> None:
    used = set(re.findall(r"'#/components/(\w+)/([\w-]+)'", str(DOCUMENT)))
    defined = {
        (kind, name)
        for kind, components in DOCUMENT["components"].items()
        for name in components
        if kind != "securitySchemes"
    }
    assert used == defined


def test_every_route_is_documented_and_every_documented_path_is_a_route() -> None:
    documented = {(method.upper(), path) for method, path in OPERATIONS if path.startswith(ADMIN)}
    assert documented == {
        (method, ADMIN + path) for path, handlers in ROUTES.items() for method in handlers
    }
    names = [
        item[m]["operationId"]
        for item in DOCUMENT["paths"].values()
        for m in set(METHODS) & {*item}
    ]
    assert len(set(names)) == len(names)


async def job_of(client: httpx.AsyncClient) -> str:
    body = {"name": "tiny", "recipe": "named"}
    identifier: str = (await client.post(f"{ADMIN}/variants", json=body)).json()["id"]
    return identifier


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_every_operation_responds_as_documented(
    service: Administered, client: httpx.AsyncClient, method: str, path: str
) -> None:
    job = await job_of(client)
    if not path.endswith("/cancel"):
        service.finish(service.store.job(job))
    url = path.replace("{name}", "int8").replace("{job}", job)
    content = DOCUMENT["paths"][path][method].get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {})
    bodies = [example["value"] for example in examples.values()] or [None]
    async with service.reconciling():
        for body in bodies:
            response = await client.request(method, url, json=body)
            assert response.status_code in (200, 202, 409), response.text
            assert_documented(method, path, response)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("token", [None, READ_TOKEN], ids=["no token", "a token to read"])
async def test_other_statuses_are_documented(
    service: Administered, method: str, path: str, token: str | None
) -> None:
    async with service.client(token) as client:
        url = path.replace("{name}", "none").replace("{job}", "none")
        response = await client.request(method, url, json={} if method == "post" else None)
    if method == "get" and token:
        assert response.status_code in (200, 404)
    else:
        assert response.status_code == (403 if token else 401)
    assert_documented(method, path, response)


async def test_the_document_of_a_gateway_with_a_store_has_the_admin_api(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["paths"].keys() == DOCUMENT["paths"].keys()
