"""Logs requests that failed, one line each."""

from __future__ import annotations

import logging
from typing import Final

from serving.errors import ServingError, status_of

logger = logging.getLogger(__name__)

FAILED: Final = "the service failed; it was logged"
"""The message of an internal error in an answer, without its cause."""


def log_failure(error: Exception, called: str) -> None:
    """Log a call that failed, with a traceback if the error is not a `ServingError`.

    The level is that of the table of errors. `called` is the path or the method.
    """
    status = status_of(error)
    if not logger.isEnabledFor(status.log_level):
        return
    logger.log(
        status.log_level,
        "%s",
        error,
        extra={
            "path": called[:200],
            "status": int(status.http),
            "error": type(error).__name__,
        },
        exc_info=None if isinstance(error, ServingError) else error,
    )
