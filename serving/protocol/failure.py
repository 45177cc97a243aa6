"""What becomes of a request that failed, beside its answer: one line in the log."""

from __future__ import annotations

import logging
from typing import Final

from serving.errors import STATUS, InferenceFailed, ServingError

logger = logging.getLogger(__name__)

FAILED: Final = "the service failed; it was logged"
"""All that a caller is told of a fault of ours."""


def log_failure(error: Exception, called: str) -> None:
    """Write one line on a call that failed; with a traceback only where the fault is ours."""
    kind = type(error) if isinstance(error, ServingError) else InferenceFailed
    logger.log(
        logging.ERROR if kind is InferenceFailed else logging.INFO,
        "%s",
        error,
        extra={
            "path": called[:200],
            "status": int(STATUS[kind].http),
            "error": type(error).__name__,
        },
        exc_info=None if isinstance(error, ServingError) else error,
    )
