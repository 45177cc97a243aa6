"""The log line of a failed request."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Final

from serving.errors import ServingError, Unauthorized, status_of
from serving.telemetry.line_budget import LineBudget

logger = logging.getLogger(__name__)

INTERNAL_ERROR: Final = "internal error; the cause was logged"
"""The message that a client gets for an error of the service itself."""


BUDGET: Final = LineBudget()
"""Of each kind of errors, a few lines per period are logged."""


def log_failure(error: Exception, path: str, route: str = "") -> None:
    """Log a failed call to `path`, with a traceback if the error is not a `ServingError`.

    The level is that of the table of errors. Errors of one kind that follow each other quickly are
    counted instead; see `LineBudget`. Their kind is the class; for callers without a valid token
    also the `route`, one of few, so that attempts to administer are not hidden; for unexpected
    errors also the place in the code.
    """
    status = status_of(error)
    if not logger.isEnabledFor(status.log_level):
        return
    fields = BUDGET.take(_kind(error, route))
    if fields is None:
        return
    logger.log(
        status.log_level,
        "%s",
        error,
        extra={
            "path": path[:200],
            "status": int(status.http),
            "error": type(error).__name__,
            **fields,
        },
        exc_info=None if isinstance(error, ServingError) else error,
    )


def _kind(error: Exception, route: str) -> Hashable:
    name = type(error).__name__
    if isinstance(error, Unauthorized):
        return name, route
    if isinstance(error, ServingError):
        return name
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return name
    return name, traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
