"""`paretoserve up` as a process: what it listens on, and how it ends when something is lost."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.live_service import PARETOSERVE, ROOT, kill_all, start_up
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

END_S = 20.0
"""Far more than the end of killed processes takes, and less than any time limit of Ray."""


@pytest.fixture
def up(own_catalog: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = tmp_path / "output"
    free = ("--port", "0", "--grpc-port", "0")
    process = start_up(["--catalog", str(own_catalog), *free], output)
    children = _descendants(process.pid)
    yield process, output
    if process.poll() is None:
        process.kill()
    process.wait()
    kill_all(children)


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_only_loopback_is_listened_on_and_the_loss_of_the_raylet_ends_everything(
    up: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, output = up
    assert process.poll() is None, output.read_text()
    children = _descendants(process.pid)
    sockets = {each: _listening(each) for each in children}
    addresses = {ip for found in sockets.values() for ip in found}
    assert {ip for ip in addresses if not _is_loopback(ip)} == set()
    documented = _documented()
    counts = {(_kind(each.name(), documented), len(found)) for each, found in sockets.items()}
    assert {(kind, count) for kind, count in counts if count} == set(documented.items())

    raylet = next(each for each in children if each.name() == "raylet")
    raylet.kill()
    assert process.wait(END_S) == 1
    assert output.read_text().rstrip().endswith("error: the raylet of Ray has ended")
    _, left = psutil.wait_procs(children, timeout=END_S)
    assert left == []
    assert "Traceback" not in output.read_text()


def _listening(process: psutil.Process) -> list[str]:
    """Return the addresses of the TCP sockets on which a process listens."""
    connections = process.net_connections("inet")
    return [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN]


def _documented() -> dict[str, int]:
    """Return the number of TCP sockets by start of the name of the process."""
    rows = re.findall(r"^\| `(.+?)` \| (\d+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    return {name: int(count) for name, count in rows}


def _kind(name: str, documented: Iterable[str]) -> str:
    return next((kind for kind in documented if name.startswith(kind)), name)


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def test_sigterm_while_ray_starts_ends_everything_without_a_stack_trace(
    own_catalog: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [PARETOSERVE, "up", "--catalog", own_catalog, "--port", "0", "--grpc-port", "0"],
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    wait_until(lambda: any(each.name() == "raylet" for each in _descendants(process.pid)))
    children = _descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_S) == 143
    _, left = psutil.wait_procs(children, timeout=END_S)
    assert left == []
    assert "SIGTERM" not in output.read_text()
    assert "Traceback" not in output.read_text()
