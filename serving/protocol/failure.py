"""What becomes of a request that failed, beside its answer: one line in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from serving.errors import STATUS, DeadlineExceeded, InferenceFailed, Overloaded, ServingError

logger = logging.getLogger(__name__)

FAILED: Final = "the service failed; it was logged"
"""All that a caller is told of a fault of ours."""

# Under overload there are thousands a second, and a line would make each a quarter dearer, just
# when time is short. The metrics count them, by class.
_LEVEL: Final[Mapping[type[ServingError], int]] = {
    InferenceFailed: logging.ERROR,
    Overloaded: logging.DEBUG,
    DeadlineExceeded: logging.DEBUG,
}


def log_failure(error: Exception, called: str) -> None:
    """Write one line on a call that failed; with a traceback only where the fault is ours.

    Its level is DEBUG where load is the reason, so by default it is not written.
    """
    kind = type(error) if isinstance(error, ServingError) else InferenceFailed
    level = _LEVEL.get(kind, logging.INFO)
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "%s",
        error,
        extra={
            "path": called[:200],
            "status": int(STATUS[kind].http),
            "error": type(error).__name__,
        },
        exc_info=None if isinstance(error, ServingError) else error,
    )
