"""A reference for scale: the HTTP listener of the gateway around an application without a model.

`python -m loadtests.benchmarks.bare_listener` prints its port and runs until stdin is closed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import uvloop

from serving.protocol.http.listener import HttpListener

BODY: Final = b"x" * 400
"""The response body, as long as a response of the measured model."""
HEADERS: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"content-length", str(len(BODY)).encode()),
)


async def respond(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[Mapping[str, Any]], Awaitable[None]],
) -> None:
    """Read the request body and send the same response every time: an ASGI application."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


class BareListener(NamedTuple):
    """The process of the listener, and its port."""

    pid: int
    port: int


@contextmanager
def run_bare_listener() -> Iterator[BareListener]:
    """Run the listener in a separate process.

    Raises RuntimeError if it does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.benchmarks.bare_listener"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:  # closes the pipes, which ends the process
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError("the listener without a model did not start")
        try:
            yield BareListener(process.pid, int(line))
        finally:
            process.kill()


async def _serve() -> None:
    listener = HttpListener(respond, "127.0.0.1", 0)
    await listener.start()
    await _wait_until_listening(listener.port)
    print(listener.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close()


async def _wait_until_listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


if __name__ == "__main__":
    uvloop.run(_serve())
