"""A folder that the processes of one test run share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PARETOSERVE_TEST_FOLDER"


def shared_folder() -> Path:
    """Return the folder. The process that calls this first makes it, and deletes it when it ends.

    Its child processes inherit the folder.
    """
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = folder = tempfile.mkdtemp(prefix="paretoserve-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[VARIABLE])
