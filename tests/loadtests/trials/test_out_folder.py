"""Where results are to be written, of verbs that work for long before they write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.loadtests.catalogs import write_catalog


def test_a_folder_that_cannot_be_made_is_told_in_a_line_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    catalog, out = write_catalog(tmp_path / "catalog"), tmp_path / "file" / "results"
    done = subprocess.run(
        [sys.executable, "-c", "from paretoserve.main import main; main()",
         "simulate", "--catalog", catalog, "--out", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: [Errno 20] Not a directory: ")
    assert "simulating" not in done.stderr
