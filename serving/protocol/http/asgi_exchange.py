"""A request that an ASGI application answers, by means of uvicorn's request-response cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.protocol.control import Asgi
from serving.protocol.http.head import RequestHead, Target

logger = logging.getLogger(__name__)

ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


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
            transport=transport,
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
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._cycle.disconnected:
                raise  # uvicorn logs it
