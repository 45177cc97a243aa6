"""The environment variables that every process of a cluster needs.

Ray reads them when it is imported, so this module does not import it. `k8s/base` sets the same
variables in every pod; a test compares the two.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

ENVIRONMENT: Final = {
    # User code runs on the main loop of the replica, which saves two thread switches per request.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # With Ray's default of 15, every other process of the machine has precedence.
    "RAY_worker_niceness": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def set_environment() -> None:
    """Set the variables that are not set yet; child processes inherit them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def set_token() -> None:
    """Protect a cluster on this machine by a new token, whatever the environment says.

    Ray gives the variables to the processes that it starts. A token of the caller's would be that
    of another cluster, and the mode could be `disabled`.
    """
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
