"""The paths of the OpenAPI document, with the operations of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.errors import (
    STATUS,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    RequestTooLarge,
    ServingError,
    Unsupported,
)
from serving.protocol.inference import UNIT_HEADER
from serving.protocol.openapi.components import (
    BINARY,
    JSON,
    JSON_LENGTH,
    NOT_ALLOWED,
    Json,
    content,
    parameter,
    ref,
    schema_ref,
)
from serving.protocol.openapi.inference_schemas import example_request, is_json_capable
from serving.routing.slo import HEADERS
from variants.catalog.catalog import Model

Errors = tuple[type[ServingError], ...]

_INFER: Final = f"""\
The body is a JSON document, or a JSON document followed by raw tensors ({BINARY}) in the order of
the inputs, little-endian, row-major. A raw tensor has the parameter `binary_data_size`, its length
in bytes, in place of `data`. The response has the same format if the request sets
`binary_data_output`, or `binary_data` for an output.
"""

_BINARY_INPUTS: Final = (
    "The model has inputs of FP16 or BF16, which cannot be sent as JSON. Send them as binary."
)

_NAME: Final = {"type": "string", "pattern": "^[^/]+$"}


def all_paths(model: Model, max_body_bytes: int, inputs: Sequence[Json]) -> Json:
    """Return the path items by path; `inputs` are those of the example request."""
    paths: Json = {}
    for version, suffix in (("", ""), ("/versions/{variant}", "OfVariant")):
        parameters = [ref("parameters", "model")]
        if version:
            parameters.append(ref("parameters", "variant"))
        for route, item in _model_items(suffix, model, max_body_bytes, inputs).items():
            paths[f"/v2/models/{{model}}{version}{route}"] = {"parameters": parameters, **item}
    for verb in ("load", "unload"):
        summary = f"Not supported: models cannot be {verb}ed through this API"
        paths[f"/v2/repository/models/{{name}}/{verb}"] = {
            "parameters": [parameter("name", "path", _NAME, required=True)],
            "post": _operation(verb, "model", summary, {}, (Unsupported,)),
        }
    index = _operation(
        "index",
        "model",
        "The variants and whether each is ready",
        {"200": content("The variants.", JSON, schema_ref("Index"))},
        (InvalidRequest, RequestTooLarge),
    )
    openapi = _operation(
        "openapi",
        "server",
        "This document",
        {"200": content("An OpenAPI 3.1 document.", JSON, {"type": "object"})},
    )
    return paths | {
        "/v2/repository/index": {"post": index | {"requestBody": _index_body()}},
        "/v2/models": _get("models", "The names of the models", "Models"),
        "/v2/models/stats": _get("allStatistics", "Statistics of all models", "Statistics"),
        "/v2": _get("server", "Metadata of the server", "Server", tag="server"),
        "/v2/health/live": _get("live", "Whether the process runs", "Live", tag="server"),
        "/v2/health/ready": _get(
            "ready", "Whether the service is ready", "Ready", tag="server", unready=True
        ),
        "/-/healthz": _get_text(
            "healthz", "Readiness probe of load balancers", "text/plain", (NotReady,)
        ),
        "/metrics": _get_text("metrics", "Metrics in the format of Prometheus", "text/plain"),
        "/openapi.json": {"get": openapi},
        "/docs": _get_text("docs", "A page on which this API can be tried", "text/html"),
    }


def _model_items(suffix: str, model: Model, max_body_bytes: int, inputs: Sequence[Json]) -> Json:
    """Return the path items of the model by route, or those of one of its variants."""
    not_found = (ModelNotFound,)
    return {
        "/infer": _infer(suffix, model, max_body_bytes, inputs),
        "": _get(f"model{suffix}", "Inputs and outputs", "Model", errors=not_found),
        "/ready": _get(
            f"modelReady{suffix}",
            "Whether it is ready",
            "ModelReady",
            errors=not_found,
            unready=True,
        ),
        "/config": _get(
            f"config{suffix}",
            "Configuration in the format of Triton",
            "ModelConfig",
            errors=not_found,
        ),
        "/stats": _get(f"statistics{suffix}", "Statistics", "Statistics", errors=not_found),
    }


def _infer(suffix: str, model: Model, max_body_bytes: int, inputs: Sequence[Json]) -> Json:
    binary = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    in_json, out_json = {}, {}
    if is_json_capable(model.inputs):
        example = {"summary": "One sample", "value": example_request(inputs)}
        in_json[JSON] = {
            "schema": schema_ref(f"InferRequest{suffix}"),
            "examples": {"sample": example},
        }
    if any(is_json_capable([spec]) for spec in model.outputs):
        out_json[JSON] = {"schema": schema_ref("InferResponse")}
    json_length = {
        "description": "If the response is binary: the length of its JSON document in bytes.",
        "schema": {"type": "integer", "minimum": 1},
    }
    operation = _operation(
        f"infer{suffix}",
        "inference",
        "Run one variant" if suffix else "Run the best variant that qualifies",
        {
            "200": {
                "description": "The outputs, the variant that computed them, and the reason why "
                "it was chosen.",
                "headers": {JSON_LENGTH: json_length},
                "content": out_json | binary,
            }
        },
        tuple(STATUS),
    )
    # A variant in the path overrides the header for it.
    slo = [name for name, (field, _) in HEADERS.items() if not (suffix and field == "variant")]
    headers = [JSON_LENGTH, "Content-Encoding", UNIT_HEADER, *slo]
    return {
        "post": operation
        | {
            "description": _INFER if in_json else f"{_INFER}\n{_BINARY_INPUTS}",
            "parameters": [ref("parameters", name) for name in headers],
            "requestBody": {
                "required": True,
                "description": f"At most {max_body_bytes} bytes, compressed and decompressed.",
                "content": in_json | binary,
            },
        }
    }


def _index_body() -> Json:
    ready = {"type": "boolean", "description": "Return only variants that are ready."}
    schema = {"type": "object", "properties": {"ready": ready}}
    examples = {"ready": {"summary": "Variants that are ready", "value": {"ready": True}}}
    return {"required": False, "content": {JSON: {"schema": schema, "examples": examples}}}


def _get(
    identifier: str,
    summary: str,
    schema: str,
    tag: str = "model",
    errors: Errors = (),
    *,
    unready: bool = False,
) -> Json:
    """Return a GET of a JSON document. If `unready`, a 503 has the same document."""
    responses = {"200": content("The requested document.", JSON, schema_ref(schema))}
    if unready:
        status = str(STATUS[NotReady].http.value)
        responses[status] = content("Not ready.", JSON, schema_ref(schema))
    return {"get": _operation(identifier, tag, summary, responses, errors)}


def _get_text(identifier: str, summary: str, media_type: str, errors: Errors = ()) -> Json:
    responses = {"200": content("The requested text.", media_type, {"type": "string"})}
    return {"get": _operation(identifier, "server", summary, responses, errors)}


def _operation(
    identifier: str, tag: str, summary: str, responses: Json, errors: Errors = ()
) -> Json:
    responses = dict(responses)
    for error in errors:
        responses[str(STATUS[error].http.value)] = ref("responses", error.__name__)
    responses["405"] = ref("responses", NOT_ALLOWED)
    return {
        "operationId": identifier,
        "tags": [tag],
        "summary": summary,
        "responses": dict(sorted(responses.items())),
    }
