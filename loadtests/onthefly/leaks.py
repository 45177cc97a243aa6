"""What a gateway holds: memory, open files, threads and series of metrics."""

from __future__ import annotations

from urllib.request import urlopen

import psutil

from loadtests.steady.processes import find_listener
from variants.catalog.record import Record


class Holdings(Record):
    """What the process of a gateway holds at a moment."""

    resident_mib: float
    open_files: int
    threads: int
    connections: int
    series: int
    """Series of metrics."""


def measure_holdings(url: str, port: int) -> Holdings:
    """Return what the gateway at this URL, which listens on this port, holds."""
    process = psutil.Process(find_listener(port))
    with urlopen(f"{url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    with process.oneshot():
        return Holdings(
            resident_mib=process.memory_info().rss / 2**20,
            open_files=process.num_fds(),
            threads=process.num_threads(),
            connections=len(process.net_connections("tcp")),
            series=sum(not line.startswith("#") for line in lines if line),
        )
