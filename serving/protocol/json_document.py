"""Parsing of JSON from clients, with errors that name the right place."""

from __future__ import annotations

from typing import Any

import orjson

from serving.errors import InvalidRequest


def parse_json(body: bytes | memoryview) -> Any:
    """Return the value of a JSON document. Raises `InvalidRequest`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = str(error)
    try:
        bytes(body).decode()
    except UnicodeDecodeError as error:  # orjson states the place 1:1 for all of these
        raise InvalidRequest(
            f"the body is not valid JSON: byte {error.start} is not UTF-8"
        ) from None
    raise InvalidRequest(f"the body is not valid JSON: {problem}")
