"""What the operations of the OpenAPI document are put together from."""

from __future__ import annotations

from typing import Any, Final

from serving.errors import STATUS, Overloaded

Json = dict[str, Any]

JSON: Final = "application/json"

NOT_ALLOWED: Final = "MethodNotAllowed"


def error_responses() -> Json:
    """Describe by name every error there is; the name of an error is its class's."""
    responses = {
        error.__name__: content(error.__doc__ or error.__name__, JSON, schema_ref("Error"))
        for error in STATUS
    }
    responses[Overloaded.__name__]["headers"] = {
        "Retry-After": {
            "description": "Seconds.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    }
    responses[NOT_ALLOWED] = content("Another method on this path.", JSON, schema_ref("Error")) | {
        "headers": {
            "Allow": {
                "description": "The methods that there are.",
                "required": True,
                "schema": {"type": "string"},
            }
        }
    }
    return responses


def parameter(name: str, where: str, schema: Json, *, required: bool = False) -> Json:
    """Describe a parameter that is in `where`: path or header."""
    return {"name": name, "in": where, "required": required, "schema": schema}


def content(description: str, media_type: str, schema: Json) -> Json:
    """Describe an answer that has one kind of content."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def schema_ref(name: str) -> Json:
    """Refer to one of the document's schemas."""
    return ref("schemas", name)


def ref(kind: str, name: str) -> Json:
    """Refer to one of the document's components of this kind."""
    return {"$ref": f"#/components/{kind}/{name}"}
