"""Logging as one JSON object per line, on standard error."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Final, TypeAlias

import orjson

from serving.telemetry.line_budget import BudgetFilter

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_STANDARD_FIELDS: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)) | {"message": "", "taskName": None}
)


class JsonFormatter(logging.Formatter):
    """Formats a record and the fields of its `extra` as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{
                name: value
                for name, value in vars(record).items()
                # Ray's record factory adds private fields to every record.
                if name not in _STANDARD_FIELDS and not name.startswith("_")
            },
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the name is that of logging
        """Return the traceback. The method of logging prints it, and Serve replaces `print`."""
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


def log_as_json(level: int = logging.INFO) -> None:
    """Send the logs of this project to standard error; the logs of libraries are not affected.

    Warnings and errors that repeat themselves are counted instead; see `LineBudget`.
    """
    # Not `sys.stderr`, which Serve replaces by its own logger.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(BudgetFilter())
    for package in ("serving", "variants"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
