"""What is checked before Ray starts. Each refusal says what would be right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster.machine import (
    check_folder,
    check_space,
    object_store_folder,
)
from serving.cluster.ray_folder import temporary_folder
from serving.cluster.start_failure import NotStarted


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "ray"
    message = f"{folder} must be writable by user {os.geteuid()}, for logs (Not a directory): do x"
    with pytest.raises(NotStarted, match=f"^{re.escape(message)}$"):
        check_folder(folder, "for logs", "do x")


def test_a_full_folder_is_named_with_the_space_that_is_needed(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(
        NotStarted, match=r"MiB free, and Ray needs 1099511627776 MiB: .*RAY_TMPDIR"
    ):
        check_space(tmp_path, 2**60)


def test_the_object_store_is_in_shared_memory_only_if_it_fits(tmp_path: Path) -> None:
    assert object_store_folder(1, tmp_path) == tmp_path
    assert object_store_folder(2**60, tmp_path) == temporary_folder()
    assert object_store_folder(1, tmp_path / "missing") == temporary_folder()


def test_too_few_open_files_are_an_error_with_a_remedy() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "from serving.cluster.machine import raise_open_files; raise_open_files()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "may open 100 files, and a service needs 256 or more" in run.stderr
    assert "ulimit -n" in run.stderr


def test_the_limit_on_open_files_is_raised_as_far_as_allowed() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))\n"
        "from serving.cluster.machine import raise_open_files; raise_open_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "400\n"
