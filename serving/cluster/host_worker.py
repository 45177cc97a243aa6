"""Entry point of the worker processes of hosts: imports at low priority, then runs Ray's script.

    python -P -m serving.cluster.host_worker SCRIPT [ARGUMENT ...]

Imports take most of the CPU time of a start. Ray starts this command in place of its own, because
it is the `py_executable` in the runtime environment of the deployment.
"""

from __future__ import annotations

import importlib
import runpy
import shlex
import sys
import time
from typing import Final

from serving.cluster.low_priority import run_at_low_priority

MODULES: Final = ("numpy", "ray", "fastapi", "ray.serve", "serving.cluster.host_deployment")
"""Modules that a host imports, in the order of their dependencies."""

LOW_PRIORITY_S: Final = 20.0
"""Time, in seconds, after which no further module is imported at low priority.

Ray kills a worker process that has not registered within 60 s, as on a machine that is overloaded.
"""


def command() -> str:
    """Return the shell command that Ray starts, followed by its script and the arguments."""
    return f"{shlex.quote(sys.executable)} -P -m {__spec__.name}"


def import_modules() -> None:
    """Import the modules of a host; the rest is imported where it is needed if time runs out."""
    deadline = time.monotonic() + LOW_PRIORITY_S
    for module in MODULES:
        if time.monotonic() > deadline:
            return
        importlib.import_module(module)


def main() -> None:
    """Import the modules of a host, then run the script with its arguments."""
    run_at_low_priority(import_modules)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
