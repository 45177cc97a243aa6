"""Each start cleans up what ended ones have left, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster.ray_folder import ray_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def _killed_start(root: Path) -> None:
    """Leave the folder of a start that ends without cleaning up."""
    code = (
        "import os, pathlib, sys\n"
        "from serving.cluster.ray_folder import ray_folder\n"
        "with ray_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'log').write_text('log')\n"
        "    os._exit(9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(root)], check=False)
    assert run.returncode == 9


def _folders(root: Path) -> list[str]:
    return sorted(each.name for each in root.iterdir() if each.is_dir())


def test_a_start_that_ends_deletes_its_folder(root: Path) -> None:
    with ray_folder(root) as folder:
        assert _folders(root) == [folder.name]
    assert _folders(root) == []


def test_of_killed_starts_only_the_newest_folder_is_kept(root: Path) -> None:
    for _ in range(4):
        _killed_start(root)
    assert len(_folders(root)) == 2  # the newest one, and that which was kept at its start
    with ray_folder(root):
        assert len(_folders(root)) == 2  # the kept one and its own


def test_the_folder_of_a_running_start_is_kept(root: Path) -> None:
    with ray_folder(root) as running:
        (running / "log").write_text("running")
        for _ in range(3):
            _killed_start(root)
        assert (running / "log").read_text() == "running"


def test_a_folder_that_a_process_still_uses_is_kept(root: Path) -> None:
    _killed_start(root)
    (used,) = root.glob("[0-9]*")
    sleep = "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", sleep, f"--session-dir={used}/session_1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as raylet:
        _killed_start(root)
        _killed_start(root)
        assert used.is_dir()
        raylet.communicate()
    with ray_folder(root):
        assert not (used / "log").exists()  # its number may be used again


def test_other_files_are_not_touched(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "mine").mkdir()
    for _ in range(3):
        _killed_start(root)
    assert (root / "mine").is_dir()


def test_a_folder_that_others_can_write_to_is_refused(root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(PermissionError, match="set RAY_TMPDIR"), ray_folder(root):
        pass
