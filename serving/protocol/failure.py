"""The log line of a failed request."""

from __future__ import annotations

import logging
from typing import Final

from serving.errors import ServingError, status_of
from serving.telemetry.line_budget import LineBudget

logger = logging.getLogger(__name__)

INTERNAL_ERROR: Final = "internal error; the cause was logged"
"""The message that a client gets for an error of the service itself."""


BUDGET: Final = LineBudget()
"""Of each class of errors, a few lines per period are logged. The metrics count all."""


def log_failure(error: Exception, path: str) -> None:
    """Log a failed call to `path`, with a traceback if the error is not a `ServingError`.

    The level is that of the table of errors. Errors of one class that follow each other quickly are
    counted instead; see `LineBudget`.
    """
    status = status_of(error)
    if not logger.isEnabledFor(status.log_level):
        return
    fields = BUDGET.take(type(error).__name__)
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
