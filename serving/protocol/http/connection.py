"""A client connection: reads requests, and sends their responses in the same order.

    bytes ─▶ httptools ─▶ head ─▶ InferenceExchange or AsgiExchange ─▶ bytes

Inference requests begin at once, pipelined ones too; an application runs when the responses to all
earlier requests have been sent. The loss of a connection cancels its requests. What is too large,
too slow or not HTTP gets an error response, after those to the requests before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import httptools

from serving.errors import STATUS, ServingError
from serving.protocol.control import Asgi
from serving.protocol.failure import INTERNAL_ERROR
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.asgi_exchange import AsgiExchange
from serving.protocol.http.deadline import Deadline
from serving.protocol.http.exchange import Exchange
from serving.protocol.http.fields import read_fields
from serving.protocol.http.flow_control import PipelineFlowControl
from serving.protocol.http.head import Headers, RequestHead, split_target
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.inference_exchange import InferenceExchange
from serving.protocol.http.place import find_place
from serving.protocol.http.response import render, status_response
from serving.protocol.http.upgrade import strip_upgrade

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 64 * 1024
READ_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 75.0

MAX_QUEUED: Final = 256
"""Number of requests behind the one that is answered after which the connection accepts no more: it
closes once they are answered. A single read can contain so many before reading pauses."""

LINGER_S: Final = 2.0
"""Seconds that a client may go on sending after the last response, which closing could lose."""

MAX_LINGER_BYTES: Final = 32 * 2**20
"""Bytes that it may send in this time."""


class ParsingStopped(Exception):
    """Raised in a callback of the parser to stop it."""


@dataclass(slots=True)
class Site:
    """What all connections of a listener share."""

    app: Asgi
    endpoint: InferenceEndpoint | None
    """Answers inference requests; without it, `app` does."""
    front_door: FrontDoor
    max_header_bytes: int = MAX_HEADER_BYTES
    """Maximum size of a request line and headers together."""
    read_timeout_s: float = READ_TIMEOUT_S
    """A request is rejected if its head does not arrive within this time from its first byte, or
    nothing of its body for this time."""
    keep_alive_s: float = KEEP_ALIVE_S
    """A connection without a request is closed after this time."""
    connections: set[Connection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """The tasks of the application."""
    is_closing: bool = False
    """Whether the listener stops: connections that are accepted now are closed at once."""


class Connection(asyncio.Protocol):
    """One connection.

    A client that shuts down its sending side counts as disconnected, because TCP does not tell the
    two apart.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._parser = self._new_parser()
        self._exchanges: deque[Exchange] = deque()
        """The requests whose responses have not been sent, the one that is being read included."""
        self._reading: Exchange | None = None
        """The request whose body is being read; its response may have been sent already."""
        self._is_in_message = False
        self._is_rejected = False
        """Whether all further bytes are ignored."""
        self._rejection: bytes | None = None
        """The error response after those to all requests, if a request could not be read."""
        self._unsent_bytes = 0
        """Size of what was written and the kernel had not taken, when that was last looked at."""
        self._deadline = Deadline(self._loop, self._time_out)
        self._target = b""
        self._headers: Headers = []
        self._expects_continue = False
        self._head_without_upgrade = b""
        self._unparsed_bytes = 0
        """Bytes read since the last complete head, complete message or part of a body."""
        self._head_bound_bytes = 0
        """Upper bound of the head being read: all bytes since a read ended with a message."""
        self._is_head_new = False
        """Whether the first byte of the request was in the last read."""
        self.body_bytes = 0
        """What has arrived of an unfinished body."""
        self._ignored_bytes = 0
        """What has arrived after the last request of the connection."""

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection has been accepted."""
        self._transport = transport
        connection = transport.get_extra_info("socket")
        self._descriptor = None if connection is None else int(connection.fileno())
        peer = transport.get_extra_info("peername")
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._flow = PipelineFlowControl(transport, self._exchanges)
        self._site.connections.add(self)
        self._deadline.set(self._site.keep_alive_s)
        if self._site.is_closing:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has been closed by either side."""
        self._site.connections.discard(self)
        self._site.front_door.bodies.unwatch(self)
        self._deadline.close()
        self._is_rejected = True
        self._cancel_all()
        self._flow.resume_writing()

    def pause_writing(self) -> None:
        """The client does not read its responses."""
        self._flow.pause_writing()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._deadline.set(self._site.read_timeout_s)

    def resume_writing(self) -> None:
        """The client has read most of them."""
        self._flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read the bytes of one read."""
        if self._is_rejected:
            self._ignore(len(data))
            return
        self._unparsed_bytes += len(data)
        self._head_bound_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as fault:
            self._stop_parsing(fault.__context__)
            return
        except httptools.HttpParserError:
            self._reject(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")
            return
        if not self._is_in_message:  # complete, or only empty lines, which the parser skips
            self._unparsed_bytes = self._head_bound_bytes = 0
        elif self._unparsed_bytes > self._site.max_header_bytes:
            self._reject_large_head()
        elif not self._is_rejected:
            self._note_unfinished(len(data))
        if self._flow.is_full:
            self._flow.pause_reading()

    def _note_unfinished(self, size: int) -> None:
        """Note that a read of this size ended within a request."""
        reading = self._reading
        if reading is None:
            if self._is_head_new:
                self._is_head_new = False
                self._deadline.set(self._site.read_timeout_s)
        elif not reading.is_over:
            self._deadline.set(self._site.read_timeout_s)
            self.body_bytes += size
            self._site.front_door.bodies.watch(self)

    def _ignore(self, size: int) -> None:
        """Note that bytes were read after the last request of the connection."""
        self._ignored_bytes += size
        if self._ignored_bytes <= MAX_LINGER_BYTES:
            return
        if self._exchanges:
            self._flow.pause_reading()
        else:
            self._close()

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
            # A server may ignore an offer to upgrade (RFC 9110, section 7.8). The parser would read
            # the body as the new protocol, so a new parser gets the head without these headers.
            self._parser = self._new_parser()
            self._parser.feed_data(self._head_without_upgrade)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # The last request of a connection may be followed by others, which are ignored.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _stop_parsing(self, cause: BaseException | None) -> None:
        """Reject a request if an error of this service stopped the parser."""
        if not isinstance(cause, ParsingStopped):
            logger.error("a request could not be read", exc_info=cause)
            self._reject(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)

    # Called by the parser.

    def on_message_begin(self) -> None:
        """The first byte of a request line was read."""
        self._is_in_message = self._is_head_new = True
        self._target = b""
        self._headers = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        """A part of the request target was read."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read, or a trailer, which is ignored."""
        if self._reading is not None:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head was read."""
        if self._is_rejected:
            raise ParsingStopped
        # Measuring the head takes time, so it is done only if the reads exceed the limit.
        if (
            self._head_bound_bytes > self._site.max_header_bytes
            and self._head_bytes() > self._site.max_header_bytes
        ):
            self._reject_large_head()
            raise ParsingStopped
        self._unparsed_bytes = 0
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                text = "CONNECT is not allowed: this server is not a proxy"
                self._reject(HTTPStatus.METHOD_NOT_ALLOWED, text)
                raise ParsingStopped
            self._head_without_upgrade = strip_upgrade(
                method, self._target, parser.get_http_version(), self._headers
            )
            return
        if self._exchanges:
            last = self._exchanges[-1]
            if not last.keeps_alive or len(self._exchanges) > MAX_QUEUED:
                self._is_rejected = True
                last.keeps_alive = False
                raise ParsingStopped
            last.hurry()  # the client does not wait for its response
            if self._is_rejected:
                raise ParsingStopped
        self._begin(method)

    def on_body(self, body: bytes) -> None:
        """A part of the body was read."""
        self._unparsed_bytes = 0
        if self._reading is not None:
            self._reading.add_body(body)

    def on_message_complete(self) -> None:
        """The request was read."""
        reading, self._reading = self._reading, None
        if reading is None:
            return  # the end of a head that offers to upgrade
        self._unparsed_bytes = 0
        self._is_in_message = False
        if self.body_bytes:
            self._forget_body()
        if self._exchanges:
            self._deadline.clear()
        else:
            self._deadline.set(self._site.keep_alive_s)
        reading.end_body()

    # Called by the listener.

    def stop(self) -> None:
        """Close the connection once the requests that were read are answered."""
        if not self._exchanges:
            self._close()
            return
        self._exchanges[-1].keeps_alive = False
        for exchange in list(self._exchanges):
            exchange.hurry()

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    # Called by the budget of all bodies.

    def give_up(self) -> None:
        """Reject the request that is being read: its body arrives too slowly."""
        text = "the body arrives too slowly while other requests need the memory; send it again"
        self._reject(HTTPStatus.REQUEST_TIMEOUT, text)

    def _forget_body(self) -> None:
        self.body_bytes = 0
        self._site.front_door.bodies.unwatch(self)

    def _begin(self, method: bytes) -> None:
        """Begin to answer the request whose head has been read; its body may follow."""
        version = self._parser.get_http_version()
        try:
            fields = read_fields(self._headers, version)
        except ServingError as fault:
            self._reject(STATUS[type(fault)].http, str(fault))
            raise ParsingStopped from None
        head = RequestHead(
            method,
            self._target,
            version,
            self._headers,
            fields,
            version != "1.0" and self._parser.should_keep_alive(),
            self._expects_continue and version != "1.0",
            self._client,
            self._site.front_door.arrivals.arrived_at(self._descriptor),
        )
        exchange = self._reading = self._new_exchange(head)
        self._exchanges.append(exchange)
        exchange.begin()
        if exchange is self._front:
            exchange.reach_front()

    def _new_exchange(self, head: RequestHead) -> Exchange:
        site = self._site
        place = find_place(head.target) if head.method == b"POST" else None
        if place is not None and site.endpoint is not None:
            return InferenceExchange(
                head, place, site.endpoint, site.front_door, self._transport.write, self._send_ready
            )
        try:
            target = split_target(head.target)
        except ValueError as fault:
            self._reject(HTTPStatus.BAD_REQUEST, str(fault))
            raise ParsingStopped from None
        return AsgiExchange(
            head, target, site.app, self._transport, self._flow, site.tasks, self._end_front
        )

    @property
    def _front(self) -> Exchange | None:
        """The request whose response is sent next."""
        return self._exchanges[0] if self._exchanges else None

    def _send_ready(self) -> None:
        """Send the responses that are ready and not preceded by one that is not."""
        ready: list[bytes] = []
        exchanges = self._exchanges
        last: Exchange | None = None
        while exchanges and exchanges[0].response is not None and (not last or last.keeps_alive):
            last = exchanges.popleft()
            assert last.response is not None
            ready.append(last.response)
        if last is None or self._transport.is_closing():
            return
        self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
        self._advance(last)

    def _end_front(self, exchange: Exchange) -> None:
        """Note that the application has sent the whole response."""
        if self._front is exchange:
            self._exchanges.popleft()
            self._advance(exchange)

    def _advance(self, last: Exchange) -> None:
        """Go on after the response to `last`."""
        if not last.keeps_alive:
            if self._is_in_message:
                self._linger()
            else:
                self._close()
            return
        self._flow.resume_reading()
        front = self._front
        if front is not None:
            if front is self._reading:  # the client may have waited until now to send more
                self._deadline.set(self._site.read_timeout_s)
            front.reach_front()
            if front.response is not None:
                self._send_ready()
        elif self._rejection is not None:
            self._send_rejection(self._rejection)
        elif self._is_in_message:
            self._deadline.set(self._site.read_timeout_s)  # for the rest of its body
        else:
            self._deadline.set(self._site.keep_alive_s)

    def _send_rejection(self, response: bytes) -> None:
        self._transport.write(response)
        self._linger()

    def _cancel_all(self) -> None:
        for exchange in list(self._exchanges):
            exchange.cancel()
        self._exchanges.clear()
        self._reading = None
        self._forget_body()

    def _time_out(self) -> None:
        """Close the connection, or reject the request that does not arrive."""
        if self._transport.is_closing() or self._flow.write_paused:
            self._abort_if_stalled()
        elif self._is_rejected or not self._is_in_message:
            self._close()
        elif self._flow.read_paused or self._is_earlier_unanswered():
            self._deadline.set(self._site.read_timeout_s)  # the wait is not the client's fault
        else:
            limit_s = self._site.read_timeout_s
            text = f"the request is incomplete, and no data arrived for {limit_s:g} s"
            self._reject(HTTPStatus.REQUEST_TIMEOUT, text)

    def _linger(self) -> None:
        """Close the connection once the client has had time to send the rest and to read."""
        self._is_rejected = True
        self._cancel_all()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._deadline.set(LINGER_S)
            self._flow.resume_reading()

    def _close(self) -> None:
        """Close the connection once the client has got what is written."""
        self._is_rejected = True
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._transport.close()
        self._deadline.set(self._site.read_timeout_s)

    def _abort_if_stalled(self) -> None:
        """Cut a connection whose client has read nothing since the last look."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes >= self._unsent_bytes:
            self._transport.abort()
        else:
            self._deadline.set(self._site.read_timeout_s)
        self._unsent_bytes = unsent_bytes

    def _is_earlier_unanswered(self) -> bool:
        """Return whether a request before the one that is being read has no response yet."""
        return self._front is not None and self._front is not self._reading

    def _head_bytes(self) -> int:
        # Each line ends with two bytes, and two bytes separate the name of a header from its value.
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _reject_large_head(self) -> None:
        limit = self._site.max_header_bytes
        self._reject(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are larger than {limit} bytes; "
            "send fewer or shorter headers",
        )

    def _reject(self, status: HTTPStatus, text: str) -> None:
        """Send an error response for the request that is being read, stop reading and close."""
        if self._is_rejected or self._transport.is_closing():
            return
        self._is_rejected = True
        self._deadline.clear()
        self._forget_body()
        reading, self._reading = self._reading, None
        if reading is not None:
            if reading.has_begun:  # it gets no second response
                if reading in self._exchanges:
                    reading.keeps_alive = False
                else:
                    self._close()
                return
            reading.cancel()
            self._exchanges.remove(reading)
        self._rejection = render(status_response(status, text), keeps_alive=False)
        if self._exchanges:
            self._exchanges[-1].hurry()
        else:
            self._send_rejection(self._rejection)
