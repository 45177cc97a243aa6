"""Every failure a caller can see.

    ServingError
    |- InvalidRequest     the request is malformed
    |- ModelNotFound      no such model or variant
    |- RequestTooLarge    the body is over the configured limit
    |- SloUnattainable    no variant could meet the SLO even when idle
    |- Overloaded         it could be met, but not now; retry later
    |- NotReady           starting, draining, or a variant's replicas are gone
    |- DeadlineExceeded   it was accepted and the time ran out
    |- Unsupported        a part of the protocol that is not offered here
    `- InferenceFailed    our fault; the cause is logged, not returned

Raise the leaves, catch the root. A message is shown to the caller: it says what would have worked,
and names no path, no host and no library.
"""

from __future__ import annotations

from http import HTTPStatus
from reprlib import Repr
from typing import Final, NamedTuple


class ServingError(Exception):
    """The root: everything that is answered with an error body."""

    request_id: str | None = None
    """The id that the failed request gave itself, where it could be read: it is echoed."""


class InvalidRequest(ServingError):
    """The request is malformed; sending it again will not help."""


class ModelNotFound(ServingError):
    """There is no such model or variant here."""


class RequestTooLarge(ServingError):
    """The body is over the configured limit."""


class SloUnattainable(ServingError):
    """No variant could meet this SLO even when idle."""


class Overloaded(ServingError):
    """The SLO could be met, but not now."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServingError):
    """Starting, draining, or no replica of a qualifying variant is alive."""


class DeadlineExceeded(ServingError):
    """The request was accepted, and then its time ran out."""


class InferenceFailed(ServingError):
    """Our fault; the cause goes to the log."""


class Unsupported(ServingError):
    """A part of the protocol that this service does not offer."""


class ErrorStatus(NamedTuple):
    """What an error is on the wire."""

    http: HTTPStatus
    grpc: str
    """A name in `grpc.StatusCode`; text, so that nothing here imports a server."""


STATUS: Final[dict[type[ServingError], ErrorStatus]] = {
    InvalidRequest: ErrorStatus(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    ModelNotFound: ErrorStatus(HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    RequestTooLarge: ErrorStatus(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    SloUnattainable: ErrorStatus(HTTPStatus.UNPROCESSABLE_ENTITY, "FAILED_PRECONDITION"),
    Overloaded: ErrorStatus(HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    NotReady: ErrorStatus(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    DeadlineExceeded: ErrorStatus(HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
    InferenceFailed: ErrorStatus(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"),
    Unsupported: ErrorStatus(HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED"),
}

_SHORT: Final = Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 100


def shorten(value: object) -> str:
    """Return a value as a message shows it: short, however long or deep the caller made it."""
    return _SHORT.repr(value)
