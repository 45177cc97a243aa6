"""`paretoserve up` as a process: what it listens on, and how it ends when something is lost."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    documented = _documented()

    def counts() -> set[tuple[str, int]]:
        found = set()
        for each in _descendants(process.pid):
            with suppress(psutil.NoSuchProcess):
                ports = _listening(each).keys() - _fixed_ports()
                found |= {(_kind(each.name(), documented), len(ports))} if ports else set()
        return found

    wait_until(lambda: counts() == set(documented.items()))  # the spare process comes last
    children = _descendants(process.pid)
    addresses = {ip for each in children for ip in _listening(each).values()}
    assert {ip for ip in addresses if not _is_loopback(ip)} == set()

    raylet = next(each for each in children if each.name() == "raylet")
    raylet.kill()
    assert process.wait(END_S) == 1
    assert output.read_text().rstrip().endswith("error: the raylet of Ray has ended")
    _, left = psutil.wait_procs(children, timeout=END_S)
    assert left == []
    assert "Traceback" not in output.read_text()


def _listening(process: psutil.Process) -> dict[int, str]:
    """Return the addresses of the TCP sockets on which a process listens, by port."""
    connections = process.net_connections("inet")
    listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
    return {address.port: address.ip for address in listening}


def _fixed_ports() -> set[int]:
    """Return the documented ports that are open only if no other Ray has them."""
    return {int(port) for port in re.findall(r"`(\d{5})`", (ROOT / "SECURITY.md").read_text())}


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
