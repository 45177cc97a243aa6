"""The environment that every process of a cluster needs, set before ray is imported.

Ray reads these when it is imported, so this module does not import it; `k8s/base` sets the same in
every pod, and a test holds the two together.
"""

from __future__ import annotations

import os
from typing import Final

ENVIRONMENT: Final = {
    # User code runs on the replica's main loop: two thread hops less per request.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Ray's default of 15 lets anything else on the machine go first.
    "RAY_worker_niceness": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def set_environment() -> None:
    """Set what is not set yet; children inherit it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
