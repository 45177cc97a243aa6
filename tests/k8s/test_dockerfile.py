"""The Dockerfile, checked without building the image."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from paretoserve.main import cli
from serving.cluster.environment import ENVIRONMENT
from serving.gateway.settings import Settings
from serving.protocol.http.application import ROUTES
from tests.k8s.dockerfile import ROOT, environment, final, instructions

# The file of Ray that reads each variable.
READERS = {
    "RAY_worker_niceness": "_private/ray_constants.py",
    "RAY_USAGE_STATS_ENABLED": "_common/usage/usage_constants.py",
    "RAY_SERVE_LOG_TO_STDERR": "serve/_private/constants.py",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "serve/_private/constants.py",
}


def is_in_build_context(path: str) -> bool:
    """Apply .dockerignore. Only the patterns `*`, `!name` and `**/` are supported."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            is_in = line.startswith("!")
    return is_in


def test_hadolint_reports_no_problems() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold=style", str(ROOT / "Dockerfile")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_copied_paths_exist_and_are_in_the_build_context() -> None:
    copied = [
        source
        for instruction in instructions()
        if instruction.keyword == "COPY" and not instruction.text.startswith("--from")
        for source in instruction.text.split()[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "serving", "variants", "examples"} <= {*copied}
    for source in copied:
        assert (ROOT / source).exists(), source
        assert is_in_build_context(source), source


@pytest.mark.parametrize(
    "path",
    [
        "catalog/catalog.json",
        ".git/config",
        "tests/k8s/test_dockerfile.py",
        "serving/cluster/__pycache__/apps.cpython-311.pyc",
        "examples/fashion_mnist/weights.safetensors",
        "variants/runtime/kernels/_kernels.cpython-311-x86_64-linux-gnu.so",
    ],
)
def test_private_and_generated_files_are_not_in_the_build_context(path: str) -> None:
    assert not is_in_build_context(path)


def test_every_installed_package_is_copied() -> None:
    copied = " ".join(i.text for i in instructions() if i.keyword == "COPY")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert f"{pattern.rstrip('*')} " in copied


def test_every_file_in_a_package_is_installed() -> None:
    """Setuptools installs only Python files, the listed package data, and compiled extensions."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    for extension in setuptools["ext-modules"]:
        listed |= {ROOT / name for name in extension["sources"] + extension["depends"]}
    others = {
        path
        for package in ("paretoserve", "serving", "variants", "loadtests")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".so") and "__pycache__" not in path.parts
    }
    assert others == listed


def test_every_pip_install_uses_the_constraints() -> None:
    commands = re.findall(r"pip install[^&\n]*", "\n".join(i.text for i in instructions()))
    assert len(commands) == 2
    assert all(" -c constraints.txt" in command for command in commands)


def test_the_base_image_has_the_python_version_of_the_project() -> None:
    (argument,) = (i.text for i in instructions() if i.stage == -1)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert argument == f"BASE=python:{version}-slim-bookworm"
    assert [i.text.split()[0] for i in instructions() if i.keyword == "FROM"] == ["${BASE}"] * 2


def test_the_final_stage_compiles_nothing_and_does_not_run_as_root() -> None:
    assert final("USER") == ["1000:1000"]
    (script,) = final("RUN")
    (packages,) = re.findall(r"install --yes --no-install-recommends ([^&]*?) *&&", script)
    assert packages.split() == ["tini", "wget"]
    assert "useradd --uid 1000" in script


def test_the_first_stage_compiles_the_kernels_and_fails_without_them() -> None:
    scripts = [i.text for i in instructions() if i.stage == 0 and i.keyword == "RUN"]
    compiler, _, package = scripts
    assert "install --yes --no-install-recommends g++ " in compiler
    assert "--prefix=/package " in package
    assert package.endswith("/variants/runtime/kernels/_kernels*.so")


def test_tini_starts_the_installed_command() -> None:
    assert [json.loads(text) for text in final("ENTRYPOINT")] == [["tini", "--"]]
    (command,) = (json.loads(text) for text in final("CMD"))
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert command[0] in scripts
    assert command[1] in cli.commands


def test_the_health_check_uses_the_port_and_a_route_of_the_service() -> None:
    (check,) = final("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "wget"
    port = Settings.model_fields["http"].default.port
    url = re.fullmatch(rf"http://127\.0\.0\.1:{port}(/.*)", command[-1])
    assert url
    assert any(method == "GET" and path.fullmatch(url[1]) for method, path, _ in ROUTES)


def test_exposed_ports_are_those_of_the_listeners_on_all_interfaces() -> None:
    listeners = [Settings.model_fields[name].default for name in ("http", "grpc")]
    assert final("EXPOSE") == [" ".join(str(listener.port) for listener in listeners)]
    for name in ("HTTP", "GRPC"):
        assert environment()[f"PARETOSERVE_{name}__HOST"] == "0.0.0.0"


def test_the_environment_sets_the_variables_of_ray_that_the_code_needs() -> None:
    image = environment()
    assert {name: value for name, value in image.items() if name.startswith("RAY_")} == ENVIRONMENT
    ray = find_spec("ray")
    assert ray
    assert ray.origin
    for name, reader in READERS.items():
        assert name in Path(ray.origin).parent.joinpath(reader).read_text()
    assert READERS.keys() == ENVIRONMENT.keys()


def test_the_copied_examples_can_be_imported() -> None:
    (folder,) = final("WORKDIR")
    assert environment()["PYTHONPATH"] == folder
    assert "examples examples" in final("COPY")
