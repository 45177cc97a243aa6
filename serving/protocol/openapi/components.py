"""Building blocks of the OpenAPI document, and its error responses."""

from __future__ import annotations

from typing import Any, Final

from serving.errors import STATUS, Overloaded

Json = dict[str, Any]

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"

JSON_LENGTH: Final = "Inference-Header-Content-Length"

NOT_ALLOWED: Final = "MethodNotAllowed"
"""Name of the response to a method that a path does not allow."""


def error_responses() -> Json:
    """Return the responses of all errors by name, which is the name of the error's class."""
    responses = {
        error.__name__: content(error.__doc__ or error.__name__, JSON, schema_ref("Error"))
        for error in STATUS
    }
    responses[Overloaded.__name__]["headers"] = {
        "Retry-After": {
            "description": "Seconds after which to retry.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    }
    not_allowed = content("The path does not allow this method.", JSON, schema_ref("Error"))
    responses[NOT_ALLOWED] = not_allowed | {
        "headers": {
            "Allow": {
                "description": "The methods that the path allows.",
                "required": True,
                "schema": {"type": "string"},
            }
        }
    }
    return responses


def parameter(name: str, location: str, schema: Json, *, required: bool = False) -> Json:
    """Return a parameter. Its location is "path" or "header"."""
    return {"name": name, "in": location, "required": required, "schema": schema}


def content(description: str, media_type: str, schema: Json) -> Json:
    """Return a response with one media type."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def schema_ref(name: str) -> Json:
    """Return a reference to a schema of the document."""
    return ref("schemas", name)


def ref(kind: str, name: str) -> Json:
    """Return a reference to a component of the document; `kind` is "schemas" or the like."""
    return {"$ref": f"#/components/{kind}/{name}"}
