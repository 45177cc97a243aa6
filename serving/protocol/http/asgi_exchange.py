"""A request that an ASGI application answers, by means of uvicorn's request-response cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.protocol.control import Asgi
from serving.protocol.http.head import RequestHead, Target
from serving.protocol.http.rest import is_small

logger = logging.getLogger(__name__)

ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class _OpenTransport:
    """The transport for uvicorn, which would close it after the last response of a connection.

    The connection does that itself, because the client may still be sending.
    """

    def __init__(self, transport: asyncio.Transport, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._transport = transport
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        if not self._is_over():  # the application failed within its response
            self._transport.close()


class AsgiExchange:
    """One request and its response. The loss of the connection cancels the application's task."""

    response = None
    """The application sends its own."""

    def __init__(
        self,
        head: RequestHead,
        target: Target,
        app: Asgi,
        transport: asyncio.Transport,
        flow: FlowControl,
        tasks: set[asyncio.Task[None]],
        on_complete: Callable[[AsgiExchange], None],
    ) -> None:
        """`tasks` has the task as long as it runs; `on_complete` is called after the response."""
        self._app = app
        self._flow = flow
        self._head = head
        self._received = 0
        """Size of what was read of the body."""
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": head.version,
            "method": head.method.decode("ascii"),
            "scheme": "http",
            "root_path": "",
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": head.headers,
            "client": head.client,
        }
        self._cycle = RequestResponseCycle(
            scope=scope,  # type: ignore[arg-type]  # it has no "server" and no "state"
            transport=cast(
                asyncio.Transport, _OpenTransport(transport, lambda: self._cycle.response_complete)
            ),
            flow=flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_continue,
            keep_alive=head.keeps_alive,
            on_response=lambda: on_complete(self),
        )

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection stays open after the response."""
        return self._cycle.keep_alive

    @keeps_alive.setter
    def keeps_alive(self, value: bool) -> None:
        self._cycle.keep_alive = value

    @property
    def has_begun(self) -> bool:
        """Whether a part of the response has been sent."""
        return self._cycle.response_started

    @property
    def is_over(self) -> bool:
        """Whether the application has sent the whole response."""
        return self._cycle.response_complete

    def begin(self) -> None:
        """Do nothing: the application sends its response itself, so it runs in its turn."""

    def reach_front(self) -> None:
        """Run the application."""
        self._task = asyncio.create_task(self._cycle.run_asgi(self._run))
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    def add_body(self, part: bytes) -> None:
        """Take a part of the body."""
        cycle = self._cycle
        self._received += len(part)
        if cycle.response_complete:
            return
        cycle.body += part
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        cycle.message_event.set()

    def end_body(self) -> None:
        """The request has been read to its end."""
        self._cycle.more_body = False
        self._cycle.message_event.set()

    def hurry(self) -> None:
        """Do nothing: it does not wait for others."""

    def cancel(self) -> None:
        """Cancel the application's task, unless it has sent its response."""
        cycle = self._cycle
        if cycle.response_complete:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if self._task is not None:
            self._task.cancel()

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        cycle, head = self._cycle, self._head

        async def send_checked(message: Any) -> None:
            # What a client sends that waits for "100 Continue" could be taken for a request, and
            # the rest of a long body is not read.
            if (
                message["type"] == "http.response.start"
                and cycle.more_body
                and (cycle.waiting_for_100_continue or not is_small(head.fields, self._received))
            ):
                cycle.keep_alive = False
            await send(message)

        try:
            await self._app(scope, receive, send_checked)
        except asyncio.CancelledError:
            if not self._cycle.disconnected:
                raise  # uvicorn logs it
