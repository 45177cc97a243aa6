"""HTTP responses, and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from typing import Final, NamedTuple, TypeAlias

import orjson

from serving.errors import STATUS, ServingError, Unauthorized
from serving.protocol.control import CHALLENGE

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
HTML: Final = b"text/html; charset=utf-8"

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Tells a client that expects it to send the body."""

_STATUS_LINES: Final = {
    int(status): b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


class Response(NamedTuple):
    """A response, before it is sent."""

    body: bytes
    content_type: bytes = JSON
    status: int = HTTPStatus.OK
    headers: Headers = ()


def render(response: Response, *, keeps_alive: bool) -> bytes:
    """Return the bytes of a response. Without `keeps_alive`, they say that no more is read."""
    body, content_type, status, headers = response
    more = b"".join([b"%s: %s\r\n" % header for header in headers]) if headers else b""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        _STATUS_LINES[status],
        content_type,
        len(body),
        more,
        b"" if keeps_alive else b"connection: close\r\n",
        body,
    )


def status_response(
    status: int, text: str, request_id: str | None = None, headers: Headers = ()
) -> Response:
    """Return a response with an error; a lone surrogate, which cannot be encoded, is replaced."""
    document = {"error": text.encode("utf-8", "replace").decode()}
    if request_id is not None:
        document["id"] = request_id
    return Response(orjson.dumps(document), status=status, headers=headers)


def error_response(error: ServingError) -> Response:
    """Return the response to a request that failed, by the table of errors."""
    headers: Headers = ()
    if error.retry_after_s is not None:
        headers = ((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()),)
    if isinstance(error, Unauthorized):
        headers = ((b"www-authenticate", CHALLENGE.encode()),)
    return status_response(STATUS[type(error)].http, str(error), error.request_id, headers)
