"""The output folder of commands that compute for a long time before they write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.loadtests.catalogs import write_catalog


def test_a_folder_that_cannot_be_created_is_reported_before_the_computation(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    catalog, out = write_catalog(tmp_path / "catalog"), tmp_path / "file" / "results"
    process = subprocess.run(
        [sys.executable, "-c", "from paretoserve.main import main; main()",
         "simulate", "--catalog", catalog, "--out", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: [Errno 20] Not a directory: ")
    assert "simulating" not in process.stderr
