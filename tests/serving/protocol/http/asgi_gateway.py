"""A gateway as an ASGI application, for tests that wrap one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serving.protocol.http.body import Receive, read_body
from serving.protocol.http.head import RequestHead
from serving.protocol.http.place import find_place
from serving.protocol.http.response import Response
from tests.serving.builders import InProcess
from tests.serving.protocol.http.sockets import Send


class AsgiGateway:
    """Answers inference requests by the endpoint of a gateway, others by its application."""

    def __init__(self, gateway: InProcess) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        gateway = self._gateway
        place = find_place(scope["raw_path"])
        if place is None:
            await gateway.protocol(scope, receive, send)
            return
        fields = dict(scope["headers"])
        head = RequestHead(
            method=b"POST",
            target=scope["raw_path"],
            version="1.1",
            headers=scope["headers"],
            fields=fields,
            keeps_alive=True,
            expects_continue=False,
            client=None,
            arrived=asyncio.get_running_loop().time(),
        )
        body = await read_body(fields, receive, gateway.endpoint.max_body_bytes, "")
        responses: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        gateway.endpoint.start(head, place, body, 0.0, lambda size: None, responses.set_result)
        response = await responses
        length = (b"content-length", b"%d" % len(response.body))
        headers = [(b"content-type", response.content_type), length, *response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
