"""Names of the Serve applications, and the settings that all deployments share."""

from __future__ import annotations

import re
from typing import Final

GATEWAY: Final = "gateway"
"""Name of the application of the gateway."""

BUILDS: Final = "paretoserve-builds"
"""Ray's namespace of the actors that build generations; each has the name of its job."""

HOST: Final = "Host"
"""Name of the only deployment in an application of hosts."""

HEALTH_PERIOD_S: Final = 1.0
"""Interval, in seconds, at which Serve checks the health of a replica."""

HEALTH_TIMEOUT_S: Final = 5.0
"""Seconds after which a health check without an answer has failed.

With Serve's defaults of 10 and 30 s, a dead replica is replaced only after callers time out.
"""

STOP_POLL_S: Final = 0.1
"""Interval, in seconds, at which Serve looks whether a stopping replica has ended."""

STOP_MARGIN_S: Final = 10.0
"""Time after the end of the drain, in seconds, after which Serve kills a stopping replica."""


def app_name(variant: str, generation: int) -> str:
    """Return the name of the application that serves one generation of a variant."""
    return f"v-{variant}-g{generation}"


def parse_app(app: str) -> tuple[str, int] | None:
    """Return the variant and the generation that an application serves.

    Returns None if it is not an application of hosts.
    """
    match = re.fullmatch(r"v-(.+)-g(\d+)", app)
    return (match[1], int(match[2])) if match else None
