"""One client's connection: uvicorn's, which notices that its client leaves and bounds its wait.

A lost connection cancels the task that answers it. Request lines, headers and trailers have a
limit, and so has what is sent ahead. A request that stops arriving is not waited for. What is no
request gets an error body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import httptools
import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.protocol.http.upgrade import without_offer

MAX_PIPELINED: Final = 16
"""Requests that one connection may have sent ahead before reading from it pauses."""

MAX_TAKEN: Final = 256
"""Requests sent ahead, many of them in one read, that are answered before the connection ends."""

LINGER_S: Final = 2.0
"""How long a refused client may go on sending: closing at once could cost it the answer."""


class ParsingStopped(Exception):
    """Ends the parsing of a request; the parser hides it from whoever called."""


class Flow(FlowControl):
    """Reads nothing more while enough requests wait: after every answer it is asked again."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Called when an application wants more of a body, and when an answer was sent."""
        if self.read_paused and len(self._waiting) < MAX_PIPELINED:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """The protocol class of a listener.

    A client that shuts down its sending half counts as gone: TCP does not tell the two apart.
    One that sends more than `MAX_TAKEN` requests ahead hears `connection: close` with the last
    answer that it gets, and has to send the others again on another connection.
    """

    def __init__(self, *args: Any, max_header_bytes: int, silence_s: float, **kwargs: Any) -> None:
        """Take what uvicorn gives.

        `max_header_bytes` may be a request line and headers together; a client that sends nothing
        for `silence_s` in the middle of a request is refused.
        """
        super().__init__(*args, **kwargs)
        self._max_header_bytes = max_header_bytes
        self._silence_s = silence_s
        self._head_without_upgrade = b""
        self._answering: RequestResponseCycle | None = None
        self._task: asyncio.Task[None]
        self._unframed = 0
        """Bytes read since a head or a message was whole or a part of a body came."""
        self._bound = 0
        """Bytes of all reads since one ended with a message: no head that is read is larger."""
        self._is_in_body = False
        self._heard = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the transport."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._close_after(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Called by the transport with what came."""
        if self._is_refused:
            return
        self._unframed += len(data)
        self._bound += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "what was sent is not a valid HTTP/1.1 request")
            return
        if self.scope is None:  # empty lines may follow a message: the parser skips them
            self._unframed = self._bound = 0
            return
        self._unset_keepalive_if_required()
        if self._unframed > self._max_header_bytes:
            self._refuse_headers()
            return
        self._heard = self.loop.time()
        if self._patience is None:
            self._patience = self.loop.call_later(self._silence_s, self._check_silence)

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
            # There is nothing to upgrade to, which a server may ignore (RFC 9110, section 7.8). The
            # parser takes the body for the new protocol's: another begins, without those headers.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(self._head_without_upgrade)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        # Few heads come with more than the limit, in one read or in several: few are measured.
        if self._bound > self._max_header_bytes and self._head_bytes() > self._max_header_bytes:
            self._refuse_headers()
            raise ParsingStopped
        self._unframed = 0
        self._unset_keepalive_if_required()
        if self.parser.should_upgrade():
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                text = "this is no proxy: CONNECT is not taken"
                self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, text)
                raise ParsingStopped
            self._head_without_upgrade = without_offer(method, self.url, version, self.headers)
            return
        if len(self.pipeline) >= MAX_TAKEN:
            self._is_refused = True
            self.cycle.keep_alive = False
            raise ParsingStopped
        super().on_headers_complete()
        self._is_in_body = True
        if self.pipeline:
            self.flow.resume_reading()  # or nobody would notice that the client leaves

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self._is_in_body:
            return  # the end of a head that asks for an upgrade
        self._unframed = 0
        self._is_in_body = False
        super().on_message_complete()
        self.scope = None  # type: ignore[assignment]  # until the next message begins
        if self.cycle.response_complete:
            self._close_after(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport: whatever was asked for, nobody waits for it."""
        super().connection_lost(exc)
        self._drop_requests()
        self._unset_keepalive_if_required()  # or it keeps this one after a reset
        if self._patience is not None:
            self._patience.cancel()

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._task = self.loop.create_task(cycle.run_asgi(partial(_answer, cycle, app)))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def _drop_requests(self) -> None:
        # Those that were sent ahead begin at the end of an answer, which there will be none of.
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            self._task.cancel()

    def _check_silence(self) -> None:
        self._patience = None
        if self._is_refused or self.scope is None:
            return
        now = self.loop.time()
        if self.flow.read_paused or self._is_answering_another():
            self._heard = now  # it is we who do not listen, or whom the client waits for
        left_s = self._heard + self._silence_s - now
        if left_s > 0:
            self._patience = self.loop.call_later(left_s, self._check_silence)
        else:
            text = f"nothing came for {self._silence_s:g} s in the middle of a request"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, text)

    def _head_bytes(self) -> int:
        # Each line has two bytes at its end, and a header two between its name and its value.
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_headers(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are larger than {self._max_header_bytes} bytes; "
            "send fewer or shorter headers",
        )

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what is being read with an error, take nothing any more, and close."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._drop_requests()
        if not self._can_refuse():
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

    def _can_refuse(self) -> bool:
        """Tell whether the next bytes that the client gets answer what is being read."""
        is_late = self._is_in_body and self.cycle.response_started
        return not is_late and not self._is_answering_another()

    def _is_answering_another(self) -> bool:
        """Tell whether a request before the one that is being read waits for its answer."""
        answering = self._answering
        if answering is None or answering.response_complete:
            return False
        return not self._is_in_body or answering is not self.cycle


async def _answer(
    cycle: RequestResponseCycle, app: Any, scope: Any, receive: Any, send: Any
) -> None:
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        if not cycle.disconnected:
            raise  # uvicorn logs it
