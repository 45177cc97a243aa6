"""The C++ sources: built without a compiler, and watched by sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
SOURCE = ROOT / "variants" / "runtime" / "kernels" / "source"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
# 512-bit kernels cannot run on every machine, and take long to compile.
FLAGS = ("-std=c++17", "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-ffp-contract=off", "-pthread", f"-I{SOURCE}")  # fmt: skip
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    assert COMPILER is not None
    sources = [*SOURCE.glob("*.cpp"), Path(__file__).with_name("driver.cpp")]

    def compile_file(file: Path) -> Path:
        target = tmp_path / f"{file.stem}.o"
        subprocess.run([COMPILER or "", *FLAGS, "-c", file, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_file, sources))
    subprocess.run([COMPILER, *FLAGS, *objects, "-o", tmp_path / "driver"], check=True)
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # leaks need ptrace
    # With many random bits in addresses, as some kernels have, the sanitizer cannot map its memory.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    done = subprocess.run(
        [*fixed, tmp_path / "driver"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


def test_the_package_can_be_built_without_a_compiler(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    kernels = tmp_path / "variants" / "runtime" / "kernels"
    shutil.copytree(SOURCE, kernels / "source")
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "build_ext", "--inplace"],
        cwd=tmp_path,
        env=os.environ | {"CC": "false", "CXX": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'building extension "variants.runtime.kernels._kernels" failed' in done.stderr
    assert not [*kernels.glob("_kernels*")]


def test_all_sources_are_listed_in_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    files = [*SOURCE.iterdir()]
    assert len(files) > 10
    assert not [each.name for each in files if f'"{each.relative_to(ROOT)}"' not in text]
