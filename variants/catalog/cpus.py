"""The number of CPUs that this process may use, which containers and `taskset` limit.

`os.cpu_count` counts those of the machine. More threads than the process has CPUs wait for each
other, and those beyond a quota of a control group are stopped for up to 100 ms at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def available_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the CPUs that this process may use, at least 1.

    That is the size of its affinity mask, or the quota of its control group (version 1 or 2, or of
    a group above it) if that is less. A part of a CPU does not count: a thread for it would be
    stopped most of the time.
    """
    quotas = [math.inf, *_quotas(cgroups, membership)]
    return max(1, int(min(len(os.sched_getaffinity(0)), *quotas)))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the groups of this process. See cgroups(7)."""
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        for folder in _up_to(root, group):
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota is not None:
                yield quota


def _up_to(root: Path, group: str) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to the root of what is mounted."""
    path = PurePosixPath(group.lstrip("/"))
    if ".." in path.parts:  # outside of the namespace, of which only the root is seen
        path = PurePosixPath()
    for folder in (path, *path.parents):
        yield root / folder


def _version_2(folder: Path) -> float | None:
    """Return the quota in `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD`."""
    values = _numbers(folder / "cpu.max")
    return values[0] / values[1] if len(values) == 2 and values[1] else None


def _version_1(folder: Path) -> float | None:
    """Return the quota of two files in microseconds; -1 means that there is none."""
    values = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
    return values[0] / values[1] if len(values) == 2 and values[0] > 0 and values[1] else None


def _numbers(file: Path) -> list[int]:
    """Return the numbers in a file; none if it cannot be read or says something else."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []
