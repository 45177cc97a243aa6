"""The baseline without a model: a uvicorn application that reads the body and computes nothing.

python -m loadtests.peers.servers.uvicorn_server PORT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import uvicorn

BODY: Final = bytes(40)
"""As long as the FP32 logits of ten classes."""
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


if __name__ == "__main__":
    uvicorn.run(
        respond,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
