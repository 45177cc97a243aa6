"""For scale: the gateway's own listener around an application that answers without a model.

`python -m loadtests.benchmarks.listener_alone` prints its port and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import uvloop

from serving.protocol.http.listener import HttpListener

ANSWER: Final = b"x" * 400
"""As long as an answer of the measured model."""
HEADERS: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"content-length", str(len(ANSWER)).encode()),
)


async def answer(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[Mapping[str, Any]], Awaitable[None]],
) -> None:
    """Read the body, answer the same bytes always."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


@contextmanager
def running() -> Iterator[int]:
    """Run it in a process of its own; gives its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.benchmarks.listener_alone"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:  # closes the pipes, and so ends it
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError("the server without a model did not start")
        try:
            yield int(line)
        finally:
            process.kill()


async def _serve() -> None:
    listener = HttpListener(answer, "127.0.0.1", 0)
    await listener.start()
    await _until_listening(listener.port)
    print(listener.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close()


async def _until_listening(port: int) -> None:
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
