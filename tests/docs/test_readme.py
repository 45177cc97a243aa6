"""The README's examples run: its Python, its shell commands and its request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.service import RunningService
from variants.catalog.sample_request import sample_path

(PYTHON,) = [block for block in blocks("python") if block.page == "README.md"]
(BUILD,) = [block for block in blocks("sh") if block.page == "README.md" and "check" in block.text]
(CURL,) = [block for block in blocks("sh") if block.page == "README.md" and "curl" in block.text]
(RESPONSE,) = [block for block in blocks("json") if block.page == "README.md"]


def run_here(folder: Path, *command: str) -> str:
    """Run a command in a folder, with this repository's packages; return its output."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=1_800, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_the_python_example_runs(small_project: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes.yaml").write_text(small_project.read_text())
    quick = PYTHON.text.replace('("recipes.yaml")', '("recipes.yaml", seconds_per_point=0.02)')
    assert quick != PYTHON.text
    printed = run_here(tmp_path, sys.executable, "-c", quick)
    assert "int8" in printed
    assert (tmp_path / "catalog" / "catalog.json").exists()


def test_the_shell_example_checks_a_project(small_project: Path) -> None:
    check, *others = BUILD.commands()
    assert [" ".join(command) for command in others] == [
        "paretoserve build recipes.yaml",
        "paretoserve up --project recipes.yaml",
        "paretoserve variants add fast --recipe int8",
    ]
    printed = run_here(small_project.parent, sys.executable, "-m", *check)
    assert "ok" in printed


@pytest.mark.cluster
def test_the_response_has_the_form_of_the_one_in_the_readme(service: RunningService) -> None:
    (command,) = CURL.commands()
    sample = str(sample_path(service.folder))
    words = [
        word.replace("http://127.0.0.1:8000", service.url)
        .replace("fashion-mnist", service.catalog.model.name)
        .replace("catalog/request.json", sample)
        .replace("x-slo-latency-ms: 50", "x-slo-latency-ms: 60000")
        for word in command
    ]
    response = json.loads(run_here(ROOT, *words))
    example = json.loads(RESPONSE.text)
    assert response.keys() == example.keys()
    assert example["parameters"].keys() <= response["parameters"].keys()
    assert response["outputs"][0].keys() == example["outputs"][0].keys()
