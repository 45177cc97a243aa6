"""Logs as one JSON object a line, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Final

import orjson

_ORDINARY: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)) | {"message": "", "taskName": None}
)


class JsonFormatter(logging.Formatter):
    """Renders a record and whatever fields its `extra` gave it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{
                name: value
                for name, value in vars(record).items()
                # Ray's own record factory adds private fields to every record.
                if name not in _ORDINARY and not name.startswith("_")
            },
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()


def log_as_json(level: int = logging.INFO) -> None:
    """Send what this project logs to standard error; what libraries log stays where it is."""
    # The real one: Serve puts its own logger in the place of `sys.stderr`.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    for package in ("serving", "variants"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
