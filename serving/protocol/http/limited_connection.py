"""A client connection with limits. Extends uvicorn's with disconnect detection and a read time-out.

The loss of a connection cancels the task that answers its request. The size of request lines,
headers and trailers is limited, and so is the number of pipelined requests. A request that stops
arriving times out. Invalid HTTP gets an error response.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.protocol.http.flow_control import PipelineFlowControl
from serving.protocol.http.upgrade import strip_upgrade

MAX_QUEUED: Final = 256
"""Number of pipelined requests in the queue, which one read may fill beyond its limit, after
which the connection accepts no more. It closes once they are answered."""

READ_FIRST_S: Final = 0.001
"""Seconds after which a connection is closed once its time is over: the next iteration of the event
loop, which has read what has arrived.

uvloop calls due timers before it reads: after an iteration that took long, a connection may have
data that have not been read yet.
"""

LINGER_S: Final = 2.0
"""Seconds that a rejected client may go on sending. Closing at once could lose the response."""


class ParsingStopped(Exception):
    """Raised to stop parsing. httptools swallows it."""


class LimitedConnection(HttpToolsProtocol):
    """A connection that rejects what is too large, too slow or not HTTP.

    A client that shuts down its sending side counts as disconnected, because TCP does not tell the
    two apart. A client that pipelines more than `MAX_QUEUED` requests gets `connection: close` with
    the last response and has to send the remaining requests on another connection.
    """

    def __init__(
        self, *args: Any, max_header_bytes: int, read_timeout_s: float, **kwargs: Any
    ) -> None:
        """Pass on uvicorn's arguments.

        The request line and headers together may have `max_header_bytes`. A client that sends
        nothing for `read_timeout_s` in the middle of a request is rejected.
        """
        super().__init__(*args, **kwargs)
        self._max_header_bytes = max_header_bytes
        self._read_timeout_s = read_timeout_s
        self._head_without_upgrade = b""
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[None]
        self._unparsed_bytes = 0
        """Bytes read since the last complete head, complete message or part of a body."""
        self._head_bound_bytes = 0
        """Upper bound of the head being read: all bytes since a read ended with a message."""
        self._is_in_body = False
        self._last_read = 0.0
        self._read_timer: asyncio.TimerHandle | None = None
        self._is_rejected = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the transport."""
        super().connection_made(transport)
        self.flow = PipelineFlowControl(transport, self.pipeline)
        self._close_after(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Called by the transport with the bytes of one read."""
        if self._is_rejected:
            return
        self._unparsed_bytes += len(data)
        self._head_bound_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._reject(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")
            return
        if self.scope is None:  # only empty lines after a message, which the parser skips
            self._unparsed_bytes = self._head_bound_bytes = 0
            return
        self._unset_keepalive_if_required()
        if self._unparsed_bytes > self._max_header_bytes:
            self._reject_large_head()
            return
        self._last_read = self.loop.time()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self._read_timeout_s, self._check_read_timeout)

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
            # A server may ignore an offer to upgrade (RFC 9110, section 7.8). The parser would read
            # the body as the new protocol, so a new parser gets the head without these headers.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(self._head_without_upgrade)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        # Measuring the head takes time, so it is done only if the reads exceed the limit.
        if (
            self._head_bound_bytes > self._max_header_bytes
            and self._head_bytes() > self._max_header_bytes
        ):
            self._reject_large_head()
            raise ParsingStopped
        self._unparsed_bytes = 0
        self._unset_keepalive_if_required()
        if self.parser.should_upgrade():
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                text = "CONNECT is not allowed: this server is not a proxy"
                self._reject(HTTPStatus.METHOD_NOT_ALLOWED, text)
                raise ParsingStopped
            self._head_without_upgrade = strip_upgrade(method, self.url, version, self.headers)
            return
        if len(self.pipeline) >= MAX_QUEUED:
            self._is_rejected = True
            self.cycle.keep_alive = False
            raise ParsingStopped
        if self._admits():
            self._begin()

    def _admits(self) -> bool:
        """Return whether the request whose head has been read is answered now."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Begin to answer the request whose head has been read; its body may follow."""
        super().on_headers_complete()
        self._is_in_body = True
        if self.pipeline:
            self.flow.resume_reading()  # a paused transport does not report a disconnect

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self._is_in_body:
            return  # the end of a head that offers to upgrade
        self._unparsed_bytes = 0
        self._is_in_body = False
        super().on_message_complete()
        self.scope = None  # type: ignore[assignment]  # until the next message begins
        if self.cycle.response_complete:
            self._close_after(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        self._cancel_request()
        self._unset_keepalive_if_required()  # uvicorn keeps the timer after a reset
        if self._read_timer is not None:
            self._read_timer.cancel()

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, once the event loop has read what has arrived."""
        self.timeout_keep_alive_task = self.loop.call_later(
            READ_FIRST_S, super().timeout_keep_alive_handler
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._task = self.loop.create_task(cycle.run_asgi(partial(_run_app, cycle, app)))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def _cancel_request(self) -> None:
        # Queued requests start only after a response, which will not be sent.
        cycle = self._running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            self._task.cancel()

    def _check_read_timeout(self) -> None:
        self._read_timer = None
        if self._is_rejected or self.scope is None:
            return
        now = self.loop.time()
        if self.flow.read_paused or self._is_earlier_request_running():
            self._last_read = now  # the wait is not the client's fault
        left_s = self._last_read + self._read_timeout_s - now
        if left_s > 0:
            self._read_timer = self.loop.call_later(left_s, self._check_read_timeout)
        else:
            self._read_timer = self.loop.call_later(READ_FIRST_S, self._time_out, self._last_read)

    def _time_out(self, last_read: float) -> None:
        """Reject the request that is being read, unless data have arrived since `last_read`."""
        self._read_timer = None
        if self._last_read > last_read:
            self._check_read_timeout()
        elif not self._is_rejected and self.scope is not None:
            text = f"the request is incomplete, and no data arrived for {self._read_timeout_s:g} s"
            self._reject(HTTPStatus.REQUEST_TIMEOUT, text)

    def _head_bytes(self) -> int:
        # Each line ends with two bytes, and two bytes separate the name of a header from its value.
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _reject_large_head(self) -> None:
        self._reject(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are larger than {self._max_header_bytes} bytes; "
            "send fewer or shorter headers",
        )

    def _reject(self, status: HTTPStatus, text: str) -> None:
        """Send an error response for the request that is being read, stop reading and close."""
        if self._is_rejected or self.transport.is_closing():
            return
        self._is_rejected = True
        self._cancel_request()
        if not self._can_send_error():
            self.transport.close()
            return
        body = orjson.dumps({"error": text})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self._close_after(LINGER_S)

    def _can_send_error(self) -> bool:
        """Return whether the client will take the next bytes as the response to this request."""
        has_started = self._is_in_body and self.cycle.response_started
        return not has_started and not self._is_earlier_request_running()

    def _is_earlier_request_running(self) -> bool:
        """Return whether a request before the one that is being read has no response yet."""
        running = self._running
        if running is None or running.response_complete:
            return False
        return not self._is_in_body or running is not self.cycle


async def _run_app(
    cycle: RequestResponseCycle, app: Any, scope: Any, receive: Any, send: Any
) -> None:
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        if not cycle.disconnected:
            raise  # uvicorn logs it
