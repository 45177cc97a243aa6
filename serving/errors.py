"""Every error that a caller can receive, and the one table of what each error means outside.

    ServingError
    |- InvalidRequest     the request is malformed
    |- Unauthorized       an administrative request without a valid token
    |- Forbidden          the token does not allow this request
    |- ModelNotFound      there is no such model or variant
    |- Conflict           the request contradicts the present state
    |- RequestTooLarge    the body is over the configured limit
    |- SloUnattainable    no variant could meet the SLO even when idle
    |- Overloaded         the SLO could be met, but not now; retry later
    |- NotReady           starting, draining, or no live replica of a qualifying variant
    |- DeadlineExceeded   the request was accepted, but no variant can answer it in time any more
    |- Unsupported        a part of the protocol that is not implemented
    `- InferenceFailed    an internal error; the cause is logged, not returned

Raise the leaves, catch the root. Messages are for the caller: they say what would work, and name no
path, host or library.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from reprlib import Repr
from typing import Final, NamedTuple


class ServingError(Exception):
    """The root of all errors that are answered with an error body."""

    request_id: str | None = None
    """The id in the failed request, if it could be read; the answer repeats it."""
    retry_after_s: float | None = None
    """Seconds after which it makes sense to repeat the request; None if it makes none."""


class InvalidRequest(ServingError):
    """The request is malformed; sending it again does not help."""


class Unauthorized(ServingError):
    """The request needs a token and has none, or one that is not known."""


class Forbidden(ServingError):
    """The token is known, but its scope does not allow this request."""


class ModelNotFound(ServingError):
    """There is no such model or variant."""


class Conflict(ServingError):
    """The request contradicts the present state of the service, such as a job in progress."""


class RequestTooLarge(ServingError):
    """The body is over the configured limit."""


class SloUnattainable(ServingError):
    """No variant could meet this SLO even when idle."""


class Overloaded(ServingError):
    """The SLO could be met, but not now."""

    retry_after_s: float

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServingError):
    """The service is starting or draining, or no replica of a qualifying variant is alive."""

    retry_after_s: float

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):
    """The request was accepted, but no variant can answer it in time any more."""


class InferenceFailed(ServingError):
    """An internal error; the cause is logged."""


class Unsupported(ServingError):
    """A part of the protocol that this service does not implement."""


class ErrorStatus(NamedTuple):
    """The representation of an error in answers, metrics and logs."""

    http: HTTPStatus
    grpc: str
    """A name in `grpc.StatusCode`, as text, so that this module imports no server."""
    outcome: str
    """The value of the label `outcome` in the metrics."""
    log_level: int = logging.INFO
    """DEBUG for errors that load causes: under overload there are thousands per second, and a log
    line would make each of them a quarter more expensive. The metrics count them by class."""


STATUS: Final[dict[type[ServingError], ErrorStatus]] = {
    InvalidRequest: ErrorStatus(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "rejected"),
    Unauthorized: ErrorStatus(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "rejected"),
    Forbidden: ErrorStatus(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "rejected"),
    ModelNotFound: ErrorStatus(HTTPStatus.NOT_FOUND, "NOT_FOUND", "rejected"),
    Conflict: ErrorStatus(HTTPStatus.CONFLICT, "ABORTED", "rejected"),
    RequestTooLarge: ErrorStatus(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED", "rejected"
    ),
    SloUnattainable: ErrorStatus(HTTPStatus.UNPROCESSABLE_ENTITY, "FAILED_PRECONDITION", "refused"),
    Overloaded: ErrorStatus(
        HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", "shed", logging.DEBUG
    ),
    NotReady: ErrorStatus(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "not_ready"),
    DeadlineExceeded: ErrorStatus(
        HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED", "expired", logging.DEBUG
    ),
    InferenceFailed: ErrorStatus(
        HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "failed", logging.ERROR
    ),
    Unsupported: ErrorStatus(HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED", "rejected"),
}


def status_of(error: Exception) -> ErrorStatus:
    """Return the status of an error; an exception of another kind is an internal error."""
    return STATUS[type(error) if isinstance(error, ServingError) else InferenceFailed]


class _Values(Repr):
    """Names the values of JSON as JSON does."""

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802  # Repr looks it up
        return "null"


_SHORT: Final = _Values()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 100


def shorten(value: object) -> str:
    """Return the representation of a value for a message, of bounded length and depth."""
    return _SHORT.repr(value)
