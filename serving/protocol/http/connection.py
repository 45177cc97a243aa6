"""A client connection: reads requests, and sends their responses in the same order.

    bytes ─▶ RequestReader ─▶ head ─▶ InferenceExchange or AsgiExchange ─▶ bytes

Inference requests begin at once, pipelined ones too; an application runs when the responses to all
earlier requests have been sent. The loss of a connection cancels its requests. What is too large,
too slow or not HTTP gets an error response, after those to the requests before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Final

from serving.errors import STATUS, ServingError
from serving.protocol.http.asgi_exchange import AsgiExchange
from serving.protocol.http.closing import Closing
from serving.protocol.http.deadline import Deadline
from serving.protocol.http.exchange import Exchange
from serving.protocol.http.flow_control import PipelineFlowControl
from serving.protocol.http.head import RequestHead, split_target
from serving.protocol.http.inference_exchange import InferenceExchange
from serving.protocol.http.place import find_inference
from serving.protocol.http.request_reader import ParsingStopped, RequestReader
from serving.protocol.http.response import render, status_response
from serving.protocol.http.site import Site

MAX_QUEUED: Final = 256
"""Number of requests behind the one that is answered after which the connection accepts no more: it
closes once they are answered. A single read can contain so many before reading pauses."""


class Connection(asyncio.Protocol):
    """One connection.

    A client that shuts down its sending side counts as disconnected, because TCP does not tell the
    two apart.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._exchanges: deque[Exchange] = deque()
        """The requests whose responses have not been sent, the one that is being read included."""
        self._reader = RequestReader(
            site.max_header_bytes, self._begin, self._end_reading, self._reject
        )
        self._is_rejected = False
        """Whether all further bytes are ignored."""
        self._rejection: bytes | None = None
        """The error response after those to all requests, if a request could not be read."""
        self._deadline = Deadline(asyncio.get_running_loop(), self._time_out)
        self.body_bytes = 0
        """What has arrived of an unfinished body."""

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection has been accepted."""
        self._transport = transport
        connection = transport.get_extra_info("socket")
        self._descriptor = None if connection is None else int(connection.fileno())
        peer = transport.get_extra_info("peername")
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._flow = PipelineFlowControl(transport, self._exchanges)
        self._closing = Closing(transport, self._deadline, self._site.read_timeout_s)
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
        self._closing.watch()

    def resume_writing(self) -> None:
        """The client has read most of them."""
        self._flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read the bytes of one read."""
        if self._is_rejected:
            self._ignore(len(data))
            return
        reader = self._reader
        if not reader.feed(data):
            return
        if reader.is_in_message and not self._is_rejected:
            self._note_unfinished(len(data))
        if self._flow.is_full:
            self._flow.pause_reading()

    def _note_unfinished(self, size: int) -> None:
        """Note that a read of this size ended within a request."""
        reading = self._reader.exchange
        if reading is None:
            if self._reader.is_head_new:
                self._deadline.set(self._site.read_timeout_s)
        elif not reading.is_over:
            self._deadline.set(self._site.read_timeout_s)
            self.body_bytes += size
            self._site.front_door.bodies.watch(self)

    def _ignore(self, size: int) -> None:
        """Note that bytes were read after the last request of the connection."""
        if self._closing.allows(size):
            return
        if self._exchanges:
            self._flow.pause_reading()
        else:
            self._close()

    # Called by the reader.

    def _begin(self, method: bytes) -> None:
        """Begin to answer the request whose head has been read; its body may follow."""
        if self._is_rejected:
            raise ParsingStopped
        exchanges = self._exchanges
        if exchanges:
            last = exchanges[-1]
            if not last.keeps_alive or len(exchanges) > MAX_QUEUED:
                self._is_rejected = True
                last.keeps_alive = False
                raise ParsingStopped
            last.hurry()  # the client does not wait for its response
            if self._is_rejected:
                raise ParsingStopped
        arrived = self._site.front_door.arrivals.arrived_at(self._descriptor)
        try:
            head = self._reader.read_head(method, self._client, arrived)
        except ServingError as fault:
            endpoint, target = self._site.endpoint, self._reader.target
            if endpoint is not None and find_inference(method, target) is not None:
                endpoint.count_rejected(target, fault)
            self._reject(STATUS[type(fault)].http, str(fault))
            raise ParsingStopped from None
        exchange = self._reader.exchange = self._new_exchange(head)
        exchanges.append(exchange)
        exchange.begin()
        if exchanges and exchanges[0] is exchange:
            exchange.reach_front()

    def _end_reading(self, exchange: Exchange) -> None:
        """Go on after a request that was read to its end."""
        if self.body_bytes:
            self._forget_body()
        if self._exchanges:
            self._deadline.clear()
        else:
            self._deadline.set(self._site.keep_alive_s)
        exchange.end_body()

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

    def _new_exchange(self, head: RequestHead) -> Exchange:
        site = self._site
        place = find_inference(head.method, head.target)
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
            if self._reader.is_in_message:
                self._linger()
            else:
                self._close()
            return
        self._flow.resume_reading()
        front = self._exchanges[0] if self._exchanges else None
        if front is not None:
            if front is self._reader.exchange:  # the client may have waited until now to send more
                self._deadline.set(self._site.read_timeout_s)
            front.reach_front()
            if front.response is not None:
                self._send_ready()
        elif self._rejection is not None:
            self._send_rejection(self._rejection)
        elif self._reader.is_in_message:
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
        self._reader.exchange = None
        self._forget_body()

    def _time_out(self) -> None:
        """Close the connection, or reject the request that does not arrive."""
        if self._transport.is_closing() or self._flow.write_paused:
            self._closing.abort_if_stalled()
        elif self._is_rejected or not self._reader.is_in_message:
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
            self._closing.linger()
            self._flow.resume_reading()

    def _close(self) -> None:
        """Close the connection once the client has got what is written."""
        self._is_rejected = True
        self._closing.close()

    def _is_earlier_unanswered(self) -> bool:
        """Return whether a request before the one that is being read has no response yet."""
        return self._front is not None and self._front is not self._reader.exchange

    def _reject(self, status: HTTPStatus, text: str) -> None:
        """Send an error response for the request that is being read, stop reading and close."""
        if self._is_rejected or self._transport.is_closing():
            return
        self._is_rejected = True
        self._deadline.clear()
        self._forget_body()
        reading, self._reader.exchange = self._reader.exchange, None
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
