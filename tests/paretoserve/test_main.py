from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from paretoserve.main import cli
from variants.catalog.device import gpu_names


def test_an_error_is_printed_literally() -> None:
    folder = "no [n, classes] [/it] :100:"
    done = subprocess.run(
        [sys.executable, "-c", "from paretoserve.main import main; main()", "report", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {folder} is not a catalog")


@pytest.mark.parametrize(
    ("verb", "option", "number", "message"),
    [
        ("sensitivity", "--target", "95.1", "95.1 is not in the range 0<=x<=95"),
        ("sensitivity", "--target", "-1", "-1.0 is not in the range 0<=x<=95"),
        ("sensitivity", "--target", "nan", "nan is not a finite number"),
        ("sensitivity", "--max-drop", "150", "150.0 is not in the range 0<=x<=100"),
        ("sensitivity", "--max-drop", "nan", "nan is not a finite number"),
        ("search", "--max-drop", "0", "0.0 is not in the range 0<x<=100"),
        ("search", "--max-drop", "nan", "nan is not a finite number"),
        ("search", "--confidence", "100", "100.0 is not in the range 50<=x<100"),
        ("search", "--confidence", "nan", "nan is not a finite number"),
        ("search", "--latency-ms", "0", "0.0 is not in the range x>0"),
        ("search", "--latency-ms", "nan", "nan is not a finite number"),
        ("search", "--latency-ms", "inf", "inf is not a finite number"),
    ],
)
def test_numbers_are_checked_before_anything_is_measured(
    tmp_path: Path, verb: str, option: str, number: str, message: str
) -> None:
    project = tmp_path / "recipes.yaml"
    project.write_text("")
    result = CliRunner().invoke(cli, [verb, str(project), option, number])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': {message}" in result.output


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("verb", "option", "variables"),
    [
        ("build", ["--device", "cuda"], {}),
        ("measure", [], {"PARETOSERVE_HOSTS__DEVICE": "cuda"}),
    ],
)
def test_a_device_that_is_not_there_is_an_error_before_anything_is_read(
    tmp_path: Path, verb: str, option: list[str], variables: dict[str, str]
) -> None:
    (tmp_path / "recipes.yaml").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "paretoserve", verb, "recipes.yaml", *option],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().startswith("error: the device `cuda` needs an NVIDIA GPU")
    assert [path.name for path in tmp_path.iterdir()] == ["recipes.yaml"]


def test_an_error_has_a_traceback_with_debug_only(tmp_path: Path) -> None:
    (tmp_path / "variant").mkdir()
    code = (
        "import paretoserve.main as m, click\n"
        "@m.cli.command()\n"
        "def broken(): raise TypeError('a defect')\n"
        "m.main()"
    )
    plain, debug = (
        subprocess.run(
            [sys.executable, "-c", code, "broken", *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        for options in ([], ["--debug"])
    )
    assert (plain.returncode, debug.returncode) == (2, 2)
    assert plain.stderr == "error: TypeError: a defect; --debug prints where it was raised\n"
    assert "Traceback (most recent call last)" in debug.stderr


@pytest.mark.parametrize("sizes", ["", "0,1", "8,1", "1,1", "1,x", "-1"])
def test_batch_sizes_are_checked_before_anything_is_built(tmp_path: Path, sizes: str) -> None:
    project = tmp_path / "recipes.yaml"
    project.write_text("")
    result = CliRunner().invoke(cli, ["build", str(project), f"--batch-sizes={sizes}"])
    assert result.exit_code == 2
    assert "Invalid value for '--batch-sizes'" in result.output
