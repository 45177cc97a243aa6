"""Every failure a caller can see.

    ServingError
    |- InvalidRequest     the request is malformed
    |- ModelNotFound      no such model or variant
    |- RequestTooLarge    the body is over the configured limit
    |- SloUnattainable    no variant could meet the SLO even when idle
    |- Overloaded         it could be met, but not now; retry later
    |- NotReady           starting, draining, or a variant's replicas are gone
    |- DeadlineExceeded   it was accepted and the time ran out
    `- InferenceFailed    our fault; the cause is logged, not returned

Raise the leaves, catch the root. A message is shown to the caller: it says what would have worked,
and names no path, no host and no library.
"""

from __future__ import annotations

from http import HTTPStatus
from reprlib import Repr
from typing import Final


class ServingError(Exception):
    """The root: everything that is answered with an error body."""


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


STATUS: Final[dict[type[ServingError], HTTPStatus]] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    SloUnattainable: HTTPStatus.UNPROCESSABLE_ENTITY,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    InferenceFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_SHORT: Final = Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: object) -> str:
    """Return a value as a message shows it: short, however long or deep the caller made it."""
    return _SHORT.repr(value)
