"""What the Serve applications have in common: their names, and how Serve looks after them."""

from __future__ import annotations

import re
from typing import Final

GATEWAY: Final = "gateway"

HEALTH_PERIOD_S: Final = 1.0
HEALTH_TIMEOUT_S: Final = 5.0
"""With Serve's defaults of 10 and 30 s a dead replica is missed for longer than a caller waits."""

STOP_POLL_S: Final = 0.1
"""How often Serve looks whether a replica that stops has finished; its requests pass Serve by."""


def app_name(variant: str, generation: int) -> str:
    """Return the name of the application that serves one generation of a variant."""
    return f"v-{variant}-g{generation}"


def variant_of(app: str) -> str | None:
    """Return the variant that an application serves, or None if it serves none."""
    match = re.fullmatch(r"v-(.+)-g\d+", app)
    return match[1] if match else None
