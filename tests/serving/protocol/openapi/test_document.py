"""The OpenAPI document agrees with the tables of the code and with the application."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from serving.errors import STATUS, InvalidRequest
from serving.experiment.assignment import ROUTER, Arm, Experiment
from serving.protocol.http.application import ROUTES
from serving.protocol.http.place import INFER_PATH
from serving.protocol.openapi.document import openapi_document
from serving.protocol.openapi.inference_schemas import example_request
from serving.protocol.openapi.slo_schemas import slo_headers, slo_parameters
from serving.routing.slo import HEADERS, PARAMETERS, Slo, parse
from tests.serving.builders import MODEL, PROFILES, in_process
from tests.serving.protocol.calls import INFER
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.sample_request import zeros

Json = dict[str, Any]

METHODS = ("get", "post")
VARIANTS = list(PROFILES)
DOCUMENT = openapi_document(
    MODEL, VARIANTS, version="1.2.3", max_batch=64, max_body_bytes=1_000_000
)
EXPERIMENT = Experiment(
    name="trial",
    arms=(
        Arm(name="control", target=ROUTER, weight=1),
        Arm(name="treatment", target="int8", weight=1),
    ),
)


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def example_path(path: str) -> str:
    return (
        path.replace("{model}", "shirts").replace("{name}", "shirts").replace("{variant}", "int8")
    )


def resolve(part: Json) -> Json:
    """Return a part of the document, or the component that it refers to."""
    while "$ref" in part:
        _, kind, name = part["$ref"].removeprefix("#/").split("/")
        part = DOCUMENT["components"][kind][name]
    return part


def validator(schema: Json) -> jsonschema.Draft202012Validator:
    """Return a validator that rejects fields that the schema of an object does not mention."""
    root = copy.deepcopy(DOCUMENT)
    for component in root["components"]["schemas"].values():
        _close(component)
    return jsonschema.Draft202012Validator({**root, **copy.deepcopy(schema)})


def _close(part: Any) -> None:
    if isinstance(part, dict):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
        for each in part.values():
            _close(each)
    elif isinstance(part, list):
        for each in part:
            _close(each)


def assert_documented(method: str, path: str, response: httpx.Response) -> None:
    """Fail unless the document describes this response."""
    operation = DOCUMENT["paths"][path][method]
    documented = resolve(operation["responses"][str(response.status_code)])
    for name, header in documented.get("headers", {}).items():
        assert name in response.headers or not header.get("required")
    content_type = response.headers["content-type"].partition(";")[0]
    schema = documented["content"][content_type]["schema"]
    if content_type == "application/json":
        validator(schema).validate(response.json())


def test_the_document_is_valid_openapi_3_1() -> None:
    jsonschema.Draft202012Validator(OPENAPI_31).validate(DOCUMENT)


def test_every_schema_of_the_document_is_valid() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_has_a_component_and_every_component_a_reference() -> None:
    used = set(re.findall(r"'#/components/(\w+)/([\w-]+)'", str(DOCUMENT)))
    defined = {
        (kind, name) for kind, components in DOCUMENT["components"].items() for name in components
    }
    assert used == defined


def test_every_route_is_documented_and_every_documented_path_is_a_route() -> None:
    documented = {(method.upper(), example_path(path)) for method, path, _ in operations()}
    served = {each for each in documented if each[0] == "POST" and INFER_PATH.fullmatch(each[1])}
    assert served
    for (method, path), route in product(documented, ROUTES):
        if route[0] == method and route[1].fullmatch(path):
            served.add((method, path))
    assert served == documented
    for method, pattern, _ in ROUTES:
        paths = [path for each, path in documented if each == method and pattern.fullmatch(path)]
        assert paths, pattern.pattern


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for *_, operation in operations()]
    assert len(set(names)) == len(names)


def test_every_slo_parameter_and_header_is_documented() -> None:
    parameters = DOCUMENT["components"]["schemas"]["InferRequest"]["properties"]["parameters"]
    assert parameters["properties"].keys() - {"binary_data_output"} == PARAMETERS.keys()
    for _, path, operation in infer_operations():
        headers = {resolve(parameter)["name"] for parameter in operation["parameters"]}
        pinned = {"x-slo-variant"} if "{variant}" in path else set()
        assert headers & HEADERS.keys() == HEADERS.keys() - pinned


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [-1, 0, 1e-9, 0.5, 1, 2, 1e10, "cost", "dense", "", True, None])
def test_a_parameter_is_accepted_if_its_schema_allows_it(name: str, value: Any) -> None:
    schema = slo_parameters(["dense"])[name]
    assert jsonschema.Draft202012Validator(schema).is_valid(value) == is_accepted({name: value}, {})


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", [-1, 0, 0.5, 1, 2, 1e10, "cost", "dense", ""])
def test_a_header_is_accepted_if_its_schema_allows_it(name: str, value: Any) -> None:
    schema = slo_headers(["dense"])[name]
    assert jsonschema.Draft202012Validator(schema).is_valid(value) == is_accepted(
        {}, {name: str(value)}
    )


def is_accepted(parameters: Json, headers: dict[str, str]) -> bool:
    try:
        slo = parse(parameters, headers, Slo())
    except InvalidRequest:
        return False
    return slo.variant in (None, "dense")


def infer_operations() -> list[tuple[str, str, Json]]:
    return [row for row in operations() if row[1].endswith("/infer")]


def test_every_status_is_documented_with_its_error_body() -> None:
    for _, _, operation in infer_operations():
        for status in STATUS.values():
            response = resolve(operation["responses"][str(status.http.value)])
            assert response["content"] == {
                "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}
            }


@pytest.mark.parametrize(("method", "path"), [row[:2] for row in operations()])
async def test_every_operation_responds_as_documented(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    content = operation.get("requestBody", {}).get("content", {})
    examples = [
        example["value"]
        for body in content.values()
        for example in body.get("examples", {}).values()
    ]
    async with in_process(experiment=EXPERIMENT).client() as client:
        for example in examples or [None]:
            response = await client.request(method, example_path(path), json=example)
            assert response.status_code == (501 if path.endswith("load") else 200)
            assert_documented(method, path, response)


async def test_the_explanation_of_a_response_is_as_documented() -> None:
    explanation = DOCUMENT["components"]["schemas"]["InferResponse"]["properties"]["parameters"]
    required = set(explanation["required"])
    async with in_process().client() as client:
        assert (await post_example(client)).json()["parameters"].keys() == required
    async with in_process(experiment=EXPERIMENT).client() as client:
        response = await post_example(client, headers={"x-experiment-unit": "me"})
        assert response.json()["parameters"].keys() == explanation["properties"].keys()


async def post_example(client: httpx.AsyncClient, **arguments: Any) -> httpx.Response:
    content = DOCUMENT["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]
    value = content["application/json"]["examples"]["sample"]["value"]
    validator({"$ref": "#/components/schemas/InferRequest"}).validate(value)
    return await client.post(INFER, json=value, **arguments)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"inputs": []}, 400),
        ({"inputs": [], "id": "mine"}, 400),
        ({"parameters": {"min_accuracy": 1}}, 422),
        ({"parameters": {"variant": "small"}}, 404),
        ({"outputs": [{"name": "label", "parameters": {"classification": 3}}]}, 501),
        ({"parameters": {"tag": 1.5, "binary_data_output": True}, "id": "mine"}, 200),
        ({"parameters": {"tag": "word"}, "id": "mine", "outputs": [{"name": "label"}]}, 200),
        ({"parameters": {"tag": "x" * 1_000_000}}, 413),
    ],
)
async def test_other_statuses_of_a_request_are_documented(changed: Json, status: int) -> None:
    value = example_request(zeros(MODEL)) | changed
    async with in_process().client() as client:
        response = await client.post(INFER, json=value)
    assert response.status_code == status
    assert_documented("post", "/v2/models/{model}/infer", response)


async def test_a_full_queue_and_a_stopping_service_respond_as_documented() -> None:
    gateway = in_process(max_queue=0)
    async with gateway.client() as client:
        response = await post_example(client)
        assert response.status_code == 429
        assert_documented("post", "/v2/models/{model}/infer", response)
    gateway = in_process()
    gateway.dataplane.readiness.is_draining = True
    for path in ("/v2/health/ready", "/-/healthz", "/v2/models/{model}/ready"):
        async with gateway.client() as client:
            response = await client.get(example_path(path))
        assert response.status_code == 503
        assert_documented("get", path, response)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
async def test_another_method_responds_as_documented(path: str) -> None:
    async with in_process().client() as client:
        response = await client.delete(example_path(path))
    assert response.status_code == 405
    methods = [method.upper() for method in METHODS if method in DOCUMENT["paths"][path]]
    assert response.headers["allow"].split(", ")[0] in methods
    assert_documented(methods[0].lower(), path, response)


def model_with(datatype: str) -> Model:
    """Return a model with a tensor of this datatype, and a second one of variable size."""
    specs = (
        TensorSpec.model_validate({"name": "a tensor", "datatype": datatype, "shape": (-1, 2, 3)}),
        TensorSpec(name="words", datatype="INT32", shape=(-1, -1)),
    )
    return MODEL.model_copy(update={"inputs": specs, "outputs": specs})


@pytest.mark.parametrize("datatype", NUMPY)
def test_a_model_of_any_datatype_gets_a_valid_document(datatype: str) -> None:
    model = model_with(datatype)
    document = openapi_document(model, VARIANTS, version="1", max_batch=4, max_body_bytes=1000)
    jsonschema.Draft202012Validator(OPENAPI_31).validate(document)
    body = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]
    in_json = datatype not in {"FP16", "BF16"}
    assert ("application/json" in body) == in_json
    if in_json:
        schema = {**document, "$ref": "#/components/schemas/InferRequest"}
        example = body["application/json"]["examples"]["sample"]["value"]
        assert jsonschema.Draft202012Validator(schema).is_valid(example)


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({"shape": [2, 4], "data": [0.0] * 8}, True),
        ({"shape": [2, 4], "data": [[0, 1, 2, 3]] * 2}, True),
        ({"shape": [1, 4], "data": [0.0] * 3}, False),
        ({"shape": [2, 3]}, False),
        ({"shape": [65, 4], "data": [0.0] * 65 * 4}, False),
        ({"name": "colours"}, False),
        ({"datatype": "FP64"}, False),
        ({"data": [0, 1, 2, True]}, False),
        ({"data": [0, 1, 2, float(np.finfo(np.float32).max) * 2]}, False),
        ({"parameters": {"binary_data_size": 16}}, False),
        ({"parameters": {"tag": True}}, True),
    ],
)
async def test_an_input_is_accepted_if_its_schema_allows_it(change: Json, is_valid: bool) -> None:
    value = example_request(zeros(MODEL))
    value["inputs"][0] |= change
    schema = validator({"$ref": "#/components/schemas/InferRequest"})
    assert schema.is_valid(value) == is_valid
    async with in_process().client() as client:
        response = await client.post(INFER, json=value)
    assert response.status_code == (200 if is_valid else 400)


def test_the_example_has_the_inputs_that_are_given() -> None:
    inputs = zeros(MODEL)
    inputs[0]["data"][0] = 0.5
    document = openapi_document(
        MODEL, VARIANTS, version="1", max_batch=4, max_body_bytes=1000, inputs=inputs
    )
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{variant}/infer"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["examples"]["sample"]["value"]["inputs"] == inputs
