"""The CPUs that a process may use: its affinity mask, and the quota of its control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from variants.catalog.cpus import available_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "membership").write_text(membership)
    return folder / "cgroup", folder / "membership"


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="version 2, a container"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 8, id="no quota"),
        pytest.param("0::/\n", {"cpu.max": "250000 100000\n"}, 2, id="two and a half"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="half a CPU"),
        pytest.param("0::/\n", {"cpu.max": "3200000 100000\n"}, 8, id="more than the mask"),
        pytest.param("0::/\n", {"cpu.max": "nonsense\n"}, 8, id="a file that says nothing"),
        pytest.param("0::/a/b\n", {"a/cpu.max": "300000 100000\n"}, 3, id="a group above"),
        pytest.param(
            "0::/a/b\n",
            {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "600000 100000"},
            3,
            id="the least of several",
        ),
        pytest.param("0::/../x\n", {"cpu.max": "400000 100000\n"}, 4, id="outside the namespace"),
        pytest.param(
            "7:memory:/\n4:cpu,cpuacct:/docker/1\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "500000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            5,
            id="version 1",
        ),
        pytest.param(
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
            id="version 1 without a quota",
        ),
        pytest.param("9:cpuset:/x\n", {"x/cpu.max": "100000 100000\n"}, 8, id="no such controller"),
    ],
)
def test_a_quota_of_a_control_group_limits_the_cpus(
    tmp_path: Path, membership: str, files: dict[str, str], cpus: int
) -> None:
    assert available_cpus(*groups(tmp_path, membership, files)) == cpus


def test_without_control_groups_the_mask_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path, tmp_path / "nothing") == 8


def test_a_process_confined_to_one_cpu_counts_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from variants.catalog.cpus import available_cpus; print(available_cpus())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
