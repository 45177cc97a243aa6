"""The admin API in the OpenAPI document. Schemas come from the records that are sent."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from serving.control.api.application import MAX_KEY_LENGTH
from serving.control.api.bodies import Addition, Publication, Replacement, Rollback
from serving.control.api.views import History, JobLog, Jobs, Preview, VariantDetail, Variants
from serving.control.state import Job
from serving.errors import (
    STATUS,
    Conflict,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    RequestTooLarge,
    ServingError,
    Unauthorized,
    Unsupported,
)
from serving.protocol.control import ADMIN, CHALLENGE
from serving.protocol.openapi.components import (
    JSON,
    NOT_ALLOWED,
    Json,
    content,
    parameter,
    ref,
    schema_ref,
)
from variants.catalog.record import Record

TAG: Final = "variants"
TOKEN: Final = "token"

_READ: Final = (Unauthorized, Overloaded, NotReady)
_CHANGE: Final = (*_READ, InvalidRequest, Forbidden, RequestTooLarge)
_SUBMIT: Final = (*_CHANGE, Conflict)

_SENT: Final[tuple[type[Record], ...]] = (
    Job, Jobs, JobLog, Variants, VariantDetail, Preview, History,
)  # fmt: skip
_RECEIVED: Final[tuple[type[Record], ...]] = (Addition, Replacement, Rollback, Publication)

_RECIPE: Final = [{"technique": "int8", "parameters": {"mode": "dynamic"}}]
_EXAMPLES: Final[Mapping[type[Record], Json]] = {
    Addition: {"name": "int8-dynamic", "recipe": _RECIPE, "dry_run": True},
    Replacement: {"recipe": _RECIPE, "dry_run": True},
    Rollback: {},
    Publication: {"generation": 1, "reason": "agreed with the owners of the data"},
}


def extend_openapi(document: Json) -> None:
    """Add paths, schemas and the security scheme to the document of a gateway."""
    components = document["components"]
    components["schemas"] |= _schemas()
    components["securitySchemes"] = {TOKEN: {"type": "http", "scheme": "bearer"}}
    components["responses"][Unauthorized.__name__]["headers"] = {
        "WWW-Authenticate": {
            "description": f"Always `{CHALLENGE}`.",
            "required": True,
            "schema": {"type": "string"},
        }
    }
    document["tags"].append({"name": TAG, "description": "Change the variants"})
    document["paths"] |= {ADMIN + path: item for path, item in _paths().items()}
    for verb, what in (("load", "Publish or build"), ("unload", "Remove")):
        document["paths"][f"/v2/repository/models/{{name}}/{verb}"] = _repository(verb, what)


def _paths() -> Json:
    name = parameter("name", "path", {"type": "string", "pattern": "^[^/]+$"}, required=True)
    job = parameter("job", "path", {"type": "string", "pattern": "^[^/]+$"}, required=True)
    submit = (*_SUBMIT, ModelNotFound, Unsupported)
    stream = content(
        "The job whenever it changes, and the lines of its log.",
        "text/event-stream",
        {"type": "string"},
    )
    last = parameter("Last-Event-ID", "header", {"type": "string"})
    return {
        "/variants": {
            "get": _operation("adminVariants", "All variants", _ok(Variants), _READ),
            "post": _submit("addVariant", "Add a variant", Addition, submit, is_dry=True),
        },
        "/variants/{name}": {
            "parameters": [name],
            "get": _operation(
                "adminVariant", "One variant", _ok(VariantDetail), (*_READ, ModelNotFound)
            ),
            "delete": _submit(
                "removeVariant",
                "Remove a variant",
                None,
                (*_SUBMIT, ModelNotFound),
                query=[
                    _query("force", {"type": "boolean"}, "Also the last that meets the SLO."),
                    _query(
                        "reason",
                        {"type": "string", "maxLength": 500, "pattern": r"\S"},
                        "A text for the history.",
                    ),
                ],
            ),
        },
        "/variants/{name}/replace": {
            "parameters": [name],
            "post": _submit(
                "replaceVariant", "Make a new generation", Replacement, submit, is_dry=True
            ),
        },
        "/variants/{name}/rollback": {
            "parameters": [name],
            "post": _submit(
                "rollBackVariant",
                "Publish a former generation",
                Rollback,
                (*_SUBMIT, ModelNotFound),
            ),
        },
        "/variants/{name}/publish": {
            "parameters": [name],
            "post": _submit(
                "publishVariant",
                "Publish a generation by hand",
                Publication,
                (*_SUBMIT, ModelNotFound),
            ),
        },
        "/jobs": {
            "get": _operation(
                "jobs",
                "Jobs, newest first",
                _ok(Jobs),
                (*_READ, InvalidRequest),
                query=[
                    _query("active", {"type": "boolean"}, "Only jobs in progress."),
                    _query("limit", _integer(1, 200), "Most entries; by default 50."),
                ],
            )
        },
        "/jobs/{job}": {
            "parameters": [job],
            "get": _operation("job", "One job", _ok(Job), (*_READ, ModelNotFound)),
        },
        "/jobs/{job}/log": {
            "parameters": [job],
            "get": _operation(
                "jobLog",
                "Lines of the log of a job",
                _ok(JobLog),
                (*_READ, InvalidRequest, ModelNotFound),
                query=[_query("after", _integer(0), "Only lines after this one.")],
            ),
        },
        "/jobs/{job}/events": {
            "parameters": [job],
            "get": _operation(
                "jobEvents",
                "A job as server-sent events",
                {"200": stream},
                (*_READ, ModelNotFound),
                query=[last],
            ),
        },
        "/jobs/{job}/cancel": {
            "parameters": [job],
            "post": _operation(
                "cancelJob",
                "Cancel a job",
                {"202": _accepted()},
                (*_SUBMIT, ModelNotFound),
                query=[_key()],
            ),
        },
        "/history": {
            "get": _operation(
                "history",
                "Who did what, newest first",
                _ok(History),
                (*_READ, InvalidRequest),
                query=[
                    _query("limit", _integer(1, 200), "Most entries; by default 50."),
                    _query("before", _integer(1), "Only entries before this one."),
                ],
            )
        },
    }


def _submit(
    identifier: str,
    summary: str,
    body: type[Record] | None,
    errors: tuple[type[ServingError], ...],
    *,
    query: list[Json] | None = None,
    is_dry: bool = False,
) -> Json:
    """Return an operation that submits a job. If `is_dry`, it may also only be previewed."""
    responses = {"202": _accepted()}
    if is_dry:
        responses |= _ok(Preview, "What the request would do: `dry_run`.")
    operation = _operation(identifier, summary, responses, errors, [_key(), *(query or [])])
    if body is None:
        return operation
    example = {"summary": summary, "value": _EXAMPLES[body]}
    return operation | {
        "requestBody": {
            "required": any(field.is_required() for field in body.model_fields.values()),
            "content": {JSON: {"schema": schema_ref(body.__name__), "examples": {"one": example}}},
        }
    }


def _operation(
    identifier: str,
    summary: str,
    responses: Json,
    errors: tuple[type[ServingError], ...],
    query: list[Json] | None = None,
) -> Json:
    responses = dict(responses)
    for error in errors:
        responses[str(STATUS[error].http.value)] = ref("responses", error.__name__)
    responses[str(HTTPStatus.METHOD_NOT_ALLOWED.value)] = ref("responses", NOT_ALLOWED)
    operation: Json = {
        "operationId": identifier,
        "tags": [TAG],
        "summary": summary,
        "security": [{TOKEN: []}],
        "responses": dict(sorted(responses.items())),
    }
    if query:
        operation["parameters"] = query
    return operation


def _repository(verb: str, what: str) -> Json:
    name = parameter("name", "path", {"type": "string", "pattern": "^[^/]+$"}, required=True)
    config = {"type": "string", "description": "A recipe as JSON."}
    parameters: Json = {"type": "object", "properties": {"config": config}}
    if verb == "unload":
        parameters = {"type": "object"}
    schema = {"type": "object", "properties": {"parameters": parameters}}
    done = content("It is done.", JSON, {"type": "object"})
    operation = _operation(
        verb, f"{what} a variant, and wait", {"200": done}, (*_SUBMIT, ModelNotFound, Unsupported)
    )
    body = {"required": False, "content": {JSON: {"schema": schema}}}
    return {"parameters": [name], "post": operation | {"requestBody": body}}


def _schemas() -> Json:
    template = "#/components/schemas/{model}"
    _, sent = models_json_schema([(each, "serialization") for each in _SENT], ref_template=template)
    _, received = models_json_schema(
        [(each, "validation") for each in _RECEIVED], ref_template=template
    )
    schemas: dict[str, Any] = {**sent["$defs"], **received["$defs"]}
    return schemas


def _ok(record: type[Record], description: str = "The requested document.") -> Json:
    return {"200": content(description, JSON, schema_ref(record.__name__))}


def _accepted() -> Json:
    location = {
        "description": "Path of the job.",
        "required": True,
        "schema": {"type": "string"},
    }
    return content("The job.", JSON, schema_ref("Job")) | {"headers": {"Location": location}}


def _key() -> Json:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH}
    return parameter("Idempotency-Key", "header", schema)


def _query(name: str, schema: Json, description: str) -> Json:
    return parameter(name, "query", schema | {"description": description})


def _integer(low: int, high: int = 2**63 - 1) -> Json:
    return {"type": "integer", "minimum": low, "maximum": high}
