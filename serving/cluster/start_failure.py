"""Why a service does not start: an exception, and the messages of Serve on its deployments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

WAITING: Final = "its process has not started yet: the cluster is busy or has no free CPUs"
"""Error of hosts that have not been placed for 30 s."""


class NotStarted(Exception):
    """The service could not be started; the message has the reason and a remedy."""


def start_failure(messages: Iterable[str]) -> str | None:
    """Return the last line of the first traceback in the messages.

    Returns None if there is none: Serve also reports what is not an error.
    """
    for message in messages:
        _, is_error, traceback = message.partition("Error:\n")
        lines = [line for line in traceback.splitlines() if line.strip()]
        if is_error and lines:
            return re.sub(r"^[\w.]*(?:Error|Exception): ", "", lines[-1].strip())
        if "to be scheduled" in message:
            return WAITING
    return None
