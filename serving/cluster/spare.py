"""A spare process on each node, so that the next host there starts without its imports.

    host ─▶ Ray: start a process with my runtime environment ─▶ it imports, and idles
    Serve ─▶ Ray: start a host ─▶ it runs in the idle process

Ray gives an idle process to the next actor with the same runtime environment. It can start one in
advance, but has no Python function for it: this module calls the RPC that Ray's own core uses,
`PrestartWorkers` of its `NodeManagerService`. Hosts start as they do without if that fails, and on
a node of a shared cluster where Ray keeps an idle process of another application.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from threading import Thread
from typing import Final

import ray

from serving.cluster import host_worker

logger = logging.getLogger(__name__)

PERIOD_S: Final = 5.0
"""Interval, in seconds, at which a host looks for the spare process."""

MAX_PERIOD_S: Final = 600.0
"""The same interval after Ray has ended spare processes again and again; doubled each time."""

TIMEOUT_S: Final = 2.0
"""Time limit, in seconds, for Ray to accept the request for a process."""

KEEP_S: Final = 1_000_000
"""Seconds for which Ray keeps an idle process, even if all CPUs are reserved."""

IDLE: Final = "ray::IDLE"
"""Title of a process that has imported its modules and runs nothing."""

HOSTS: Final = "ray::ServeReplica:v-"
"""Start of the title of a process that runs a host; see `names.app_name`."""


class SpareKeeper:
    """Keeps a spare process on the node of this host. Of several hosts, the oldest one acts."""

    def __init__(self) -> None:
        self._next_check_at = 0.0
        self._period_s = PERIOD_S
        self._hosts_at_request: set[int] | None = None
        """The hosts of the node when a process was last requested; None if it was there since."""
        self._thread: Thread | None = None

    def check(self) -> None:
        """Ask Ray for a spare process if there is none. Does nothing most of the time."""
        now = time.monotonic()
        if now < self._next_check_at or (self._thread is not None and self._thread.is_alive()):
            return
        # On a thread, since Ray may not answer, and the caller must not wait or fail.
        self._thread = Thread(target=self._look, name="spare", daemon=True)
        self._thread.start()
        self._next_check_at = now + self._period_s

    def _look(self) -> None:
        try:
            titles = children(os.getppid())
            if not is_spare_missing(titles, os.getpid()):
                self._hosts_at_request, self._period_s = None, PERIOD_S
                return
            hosts = _hosts(titles)
            if hosts == self._hosts_at_request:  # no host has taken the last one
                self._period_s = min(2 * self._period_s, MAX_PERIOD_S)
            self._hosts_at_request = hosts
            _request_process()
        except Exception as error:
            logger.warning("no spare process was started", extra={"cause": repr(error)})


def is_spare_missing(titles: dict[int, str], pid: int) -> bool:
    """Return whether the host `pid` should ask for a spare process.

    `titles` are those of all worker processes of its node, by process identifier.
    """
    # One that still imports is about to become a spare process or a host.
    is_there = any(title == IDLE or host_worker.__name__ in title for title in titles.values())
    return not is_there and pid == min(_hosts(titles), default=None)


def _hosts(titles: dict[int, str]) -> set[int]:
    return {pid for pid, title in titles.items() if title.startswith(HOSTS)}


def children(pid: int) -> dict[int, str]:
    """Return the titles of the child processes of a process, by their identifiers."""
    titles = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in _read(task / "children").split():
            titles[int(child)] = _read(Path("/proc", child, "cmdline")).replace("\0", " ").strip()
    return titles


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


def _request_process() -> None:
    # Most processes never need these modules.
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.common_pb2 import PYTHON  # type: ignore[attr-defined]
    from ray.core.generated.node_manager_pb2 import (  # type: ignore[attr-defined]
        PrestartWorkersRequest,
    )
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

    context = ray.get_runtime_context()
    node_id = context.get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    node = next(each for each in nodes if each["NodeID"] == node_id)
    request = PrestartWorkersRequest(
        language=PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        num_workers=1,
        keep_alive_duration_secs=KEEP_S,
    )
    runtime_env: str = context.get_runtime_env_string()  # type: ignore[no-untyped-call]
    request.runtime_env_info.serialized_runtime_env = runtime_env
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with init_grpc_channel(address) as channel:
        stub = NodeManagerServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.PrestartWorkers(request, timeout=TIMEOUT_S)
