from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli import cli


def test_an_error_is_printed_as_it_is() -> None:
    folder = "no [n, classes] [/it] :100:"
    done = subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", "report", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {folder} is no catalog")


@pytest.mark.parametrize("option", ["--target", "--max-drop"])
@pytest.mark.parametrize("percent", ["150", "-1"])
def test_a_share_is_checked_before_anything_is_measured(
    tmp_path: Path, option: str, percent: str
) -> None:
    project = tmp_path / "recipes.yaml"
    project.write_text("")
    result = CliRunner().invoke(cli, ["sensitivity", str(project), option, percent])
    assert result.exit_code == 2
    assert "is not in the range 0<=x<=100" in result.output
