"""The wheel, built and installed without the network, and used outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PACKAGES = ("paretoserve", "serving", "variants", "loadtests")
DATA_FILES = (
    *(f"{package}/py.typed" for package in PACKAGES),
    "serving/protocol/http/explorer.html",
    "loadtests/benchmarks/throughput.yaml",
)
MODEL = """
from pathlib import Path

import numpy as np
from torch import nn

from variants.model.dataset import Datasets, Split


def network() -> nn.Module:
    return nn.Linear(4, 3)


def weights() -> Path:
    return Path(__file__).with_name("weights.safetensors")


def datasets() -> Datasets:
    return Datasets(train=split(60, 1), validation=split(60, 2), test=split(60, 3))


def split(count: int, seed: int) -> Split:
    samples = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return Split({"input": samples}, samples[:, :3].argmax(axis=1))
"""
RECIPES = """
name: largest
model: largest
recipes:
  dense: []
"""
BUILD = """
import numpy as np
import paretoserve as ps

catalog = ps.build("recipes.yaml", seconds_per_point=0.001, progress=False)
print(ps.__file__)
print(catalog)
print(ps.load("catalog", "dense")(np.eye(4, dtype=np.float32)).shape)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, because setuptools writes beside them.

    The kernels are compiled without optimization, which takes a third of the time.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace('"-O3"', '"-O0"'))
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so"),
        )
    pip("wheel", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder; its dependencies come from the tests' environment."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-compile", "--target", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user's project: a model, its weights, and a recipes file."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "largest.py").write_text(MODEL)
    (folder / "recipes.yaml").write_text(RECIPES)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3, 4))
        layer.bias.zero_()
    safetensors.torch.save_file(layer.state_dict(), folder / "weights.safetensors")
    return folder


def pip(command: str, *arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-index", *arguments],
        check=True,
    )  # fmt: skip


def run(installed: Path, folder: Path, *command: str | Path) -> str:
    """Run a command in a folder, with the installed wheel ahead of the environment's packages."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "100"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {*PACKAGES}
    assert {*DATA_FILES} <= {*names}
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_the_wheel_holds_the_compiled_kernels(installed: Path, tmp_path: Path) -> None:
    code = "from variants.runtime.kernels import library as k; print(k.__file__, k.is_compiled())"
    file, compiled = run(installed, tmp_path, sys.executable, "-c", code).split()
    assert Path(file).is_relative_to(installed)
    assert compiled == "True"


def test_the_command_shows_its_help(installed: Path, tmp_path: Path) -> None:
    output = run(installed, tmp_path, installed / "bin" / "paretoserve", "--help")
    assert output.startswith("Usage: paretoserve [OPTIONS] COMMAND [ARGS]...")
    assert "\n  build " in output


def test_the_command_checks_a_project(installed: Path, project: Path) -> None:
    output = run(installed, project, installed / "bin" / "paretoserve", "check", "recipes.yaml")
    assert "ok      project: largest: 1 recipes" in output
    assert "error" not in output


def test_the_api_builds_a_project(installed: Path, project: Path) -> None:
    file, *table, shape = run(installed, project, sys.executable, "-c", BUILD).splitlines()
    assert Path(file).is_relative_to(installed)
    assert ["dense", "100.00%"] in [line.split()[:2] for line in table]
    assert shape == "(4, 3)"
    assert (project / "catalog" / "report.html").is_file()
