"""Measures what an idle connection costs the listener of a gateway in memory.

`python -m loadtests.benchmarks.idle_connections` opens connections that have sent one request each.
"""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from typing import Final

import click
import psutil
from rich.console import Console

from loadtests.benchmarks import options
from loadtests.benchmarks.bare_listener import run_bare_listener
from loadtests.trials.grid import Grid, show

REQUEST: Final = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
RESERVED_FILES: Final = 100
"""Open files of this process besides the connections."""


def measure(connections: int) -> int:
    """Return by how many bytes the resident memory of the listener's process grows.

    Raises `OSError` if the system allows too few open files.
    """
    with run_bare_listener() as listener, ExitStack() as stack:
        process = psutil.Process(listener.pid)
        _connect(listener.port, stack)  # what the first connection takes is not counted
        before = process.memory_info().rss
        for _ in range(connections):
            _connect(listener.port, stack)
        return int(process.memory_info().rss - before)


def _connect(port: int, stack: ExitStack) -> None:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    connection.sendall(REQUEST)
    if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
        raise RuntimeError("the listener did not answer")


@click.command()
@click.option(
    "--connections", type=click.IntRange(min=1), default=10_000, show_default=True, help="Number."
)
@options.markdown
def main(connections: int, as_markdown: bool) -> None:
    """Measure the memory of idle connections."""
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + RESERVED_FILES > allowed:
        raise click.ClickException(
            f"{connections} connections need {connections + RESERVED_FILES} open files, the system "
            f"allows {allowed}; set a higher limit (ulimit -n), or use fewer --connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    grown = measure(connections)
    row = (f"{connections:,}", f"{grown / 2**20:.1f}", f"{grown / connections / 1024:.2f}")
    columns = ("idle connections", "MiB in all", "KiB each")
    show([Grid("Memory of idle connections", columns, [row])], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()
