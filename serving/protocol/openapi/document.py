"""The OpenAPI document of a gateway, made for the very model and variants that it serves.

The paths are here; what goes in and out is in the files beside it. Nothing is said twice: statuses,
SLO parameters, datatypes and tensors are read from the code's own tables.
"""

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
from serving.protocol.inference import UNIT
from serving.protocol.openapi.documents import document_schemas
from serving.protocol.openapi.infer import (
    example_request,
    infer_request,
    infer_response,
    request_tensors,
    travel_as_json,
)
from serving.protocol.openapi.parts import (
    JSON,
    NOT_ALLOWED,
    Json,
    content,
    error_responses,
    parameter,
    ref,
    schema_ref,
)
from serving.protocol.openapi.slo import slo_headers
from serving.routing.slo import HEADERS
from variants.catalog.catalog import Model

Errors = tuple[type[ServingError], ...]

BINARY: Final = "application/octet-stream"
JSON_LENGTH: Final = "Inference-Header-Content-Length"

_DESCRIPTION: Final = """\
One trained model, served as many variants. Each request gets the most accurate variant that meets
its deadline and its accuracy floor; the answer says which it was, and why.

This is the Open Inference Protocol (V2) over HTTP. Every GET may be a HEAD as well.
"""

_INFER: Final = f"""\
A request is a JSON document, or a JSON document with the raw tensors behind it ({BINARY}): in the
order of the inputs, little-endian, row-major. A tensor that goes so has, in place of `data`, the
parameter `binary_data_size`, its length in bytes. The same holds for an answer, if the request
asks for `binary_data_output`, or for an output with `binary_data`.
"""

_NAME: Final = {"type": "string", "pattern": "^[^/]+$"}

_NO_JSON: Final = "Some inputs are of FP16 or BF16, which JSON cannot say: they go as binary."


def document(
    model: Model, variants: Sequence[str], *, version: str, max_batch: int, max_body_bytes: int
) -> Json:
    """Return the OpenAPI 3.1 document, ready for JSON.

    `version` is that of the service; a request holds at most `max_batch` samples and
    `max_body_bytes` bytes, before and after it is unpacked.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Paretoserve",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "inference", "description": "Ask the model."},
            {"name": "model", "description": "The model and its variants."},
            {"name": "server", "description": "The service itself."},
        ],
        "paths": _paths(model, max_body_bytes),
        "components": {
            "schemas": _schemas(model, variants, max_batch),
            "parameters": _parameters(model, variants, max_body_bytes),
            "responses": error_responses(),
        },
    }


def _schemas(model: Model, variants: Sequence[str], max_batch: int) -> Json:
    schemas = document_schemas(model, variants)
    if travel_as_json(model.inputs):
        schemas["InferRequest"] = infer_request(variants)
        schemas["InferRequestOfVariant"] = infer_request(())
        schemas |= request_tensors(model, max_batch)
    if any(travel_as_json([spec]) for spec in model.outputs):
        schemas["InferResponse"] = infer_response(model, variants)
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string", "description": "What would have been right."},
            "id": {"type": "string", "description": "The request's own."},
        },
    }
    return schemas


def _paths(model: Model, max_body_bytes: int) -> Json:
    paths: Json = {}
    for versions, of in (("", ""), ("/versions/{variant}", "OfVariant")):
        base = f"/v2/models/{{model}}{versions}"
        named = ["model", "variant"] if versions else ["model"]
        rows = {
            "/infer": _infer(of, model, max_body_bytes),
            "": _get(f"model{of}", "Inputs and outputs", "Model", errors=(ModelNotFound,)),
            "/ready": _get(
                f"modelReady{of}",
                "Whether it can answer",
                "ModelReady",
                errors=(ModelNotFound,),
                unready=True,
            ),
            "/config": _get(
                f"config{of}", "Configuration, as Triton's", "ModelConfig", errors=(ModelNotFound,)
            ),
            "/stats": _get(
                f"statistics{of}", "What was counted", "Statistics", errors=(ModelNotFound,)
            ),
        }
        for end, row in rows.items():
            paths[base + end] = {"parameters": [ref("parameters", name) for name in named], **row}
    for verb in ("load", "unload"):
        paths[f"/v2/repository/models/{{name}}/{verb}"] = {
            "parameters": [parameter("name", "path", _NAME, required=True)],
            "post": _operation(
                verb, "model", f"Not offered: nothing is {verb}ed on the fly", {}, (Unsupported,)
            ),
        }
    return paths | {
        "/v2/repository/index": {
            "post": _operation(
                "index",
                "model",
                "The variants, and which can answer",
                {"200": content("The variants.", JSON, schema_ref("Index"))},
                (InvalidRequest, RequestTooLarge),
            )
            | {"requestBody": _index_body()},
        },
        "/v2/models": _get("models", "The models", "Models"),
        "/v2/models/stats": _get("allStatistics", "What was counted of all models", "Statistics"),
        "/v2": _get("server", "What this server is", "Server", tag="server"),
        "/v2/health/live": _get("live", "Whether the process runs", "Live", tag="server"),
        "/v2/health/ready": _get(
            "ready", "Whether requests can be answered", "Ready", tag="server", unready=True
        ),
        "/-/healthz": _text(
            "healthz", "The same, for what sends traffic here", "text/plain", (NotReady,)
        ),
        "/metrics": _text("metrics", "Metrics, for Prometheus", "text/plain"),
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "server",
                "This document",
                {"200": content("An OpenAPI 3.1 document.", JSON, {"type": "object"})},
            )
        },
        "/docs": _text("docs", "A page to try all of this", "text/html"),
    }


def _infer(of: str, model: Model, max_body_bytes: int) -> Json:
    binary = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    in_json, out_json = {}, {}
    if travel_as_json(model.inputs):
        example = {"summary": "One sample of nothing", "value": example_request(model)}
        in_json[JSON] = {"schema": schema_ref(f"InferRequest{of}"), "examples": {"blank": example}}
    if any(travel_as_json([spec]) for spec in model.outputs):
        out_json[JSON] = {"schema": schema_ref("InferResponse")}
    json_length = {
        "description": "Where the answer is binary: the length of its JSON document in bytes.",
        "schema": {"type": "integer", "minimum": 1},
    }
    operation = _operation(
        f"infer{of}",
        "inference",
        "Ask one variant" if of else "Ask for the best variant that qualifies",
        {
            "200": {
                "description": "The outputs, and why this variant gave them.",
                "headers": {JSON_LENGTH: json_length},
                "content": out_json | binary,
            }
        },
        tuple(STATUS),
    )
    # A path that names the variant wins: what else names one is not looked at.
    slo = [name for name, (field, _) in HEADERS.items() if not (of and field == "variant")]
    headers = [JSON_LENGTH, "Content-Encoding", UNIT, *slo]
    return {
        "post": operation
        | {
            "description": _INFER if in_json else f"{_INFER}\n{_NO_JSON}",
            "parameters": [ref("parameters", name) for name in headers],
            "requestBody": {
                "required": True,
                "description": f"At most {max_body_bytes} bytes, unpacked too.",
                "content": in_json | binary,
            },
        }
    }


def _index_body() -> Json:
    ready = {"type": "boolean", "description": "Only those that can answer."}
    schema = {"type": "object", "properties": {"ready": ready}}
    examples = {"ready": {"summary": "Those that can answer", "value": {"ready": True}}}
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
    """Describe a GET of a document; `unready` where a 503 has the same document."""
    answers = {"200": content("As asked for.", JSON, schema_ref(schema))}
    if unready:
        status = str(STATUS[NotReady].http.value)
        answers[status] = content("Not now.", JSON, schema_ref(schema))
    return {"get": _operation(identifier, tag, summary, answers, errors)}


def _text(identifier: str, summary: str, media_type: str, errors: Errors = ()) -> Json:
    answers = {"200": content("As asked for.", media_type, {"type": "string"})}
    return {"get": _operation(identifier, "server", summary, answers, errors)}


def _operation(identifier: str, tag: str, summary: str, answers: Json, errors: Errors = ()) -> Json:
    responses = dict(answers)
    for error in errors:
        responses[str(STATUS[error].http.value)] = ref("responses", error.__name__)
    responses["405"] = ref("responses", NOT_ALLOWED)
    return {
        "operationId": identifier,
        "tags": [tag],
        "summary": summary,
        "responses": dict(sorted(responses.items())),
    }


def _parameters(model: Model, variants: Sequence[str], max_body_bytes: int) -> Json:
    length = {
        "type": "integer",
        "minimum": 0,
        "maximum": max_body_bytes,
        "description": f"For {BINARY}: the length of the JSON document in bytes. 0 says that there "
        "is none, and that the body is one sample of the model's only input.",
    }
    coding = {
        "enum": ["identity", "gzip", "x-gzip", "deflate", ""],
        "description": "How the body is packed.",
    }
    unit = {
        "type": "string",
        "description": "Who asks: the same unit always gets the same arm of an experiment.",
    }
    return {
        "model": parameter("model", "path", {"enum": [model.name]}, required=True),
        "variant": parameter("variant", "path", {"enum": list(variants)}, required=True),
        JSON_LENGTH: parameter(JSON_LENGTH, "header", length),
        "Content-Encoding": parameter("Content-Encoding", "header", coding),
        UNIT: parameter(UNIT, "header", unit),
        **{
            name: parameter(name, "header", schema)
            for name, schema in slo_headers(variants).items()
        },
    }
