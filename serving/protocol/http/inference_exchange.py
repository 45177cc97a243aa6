"""An inference request and its response, without a task: everything happens in callbacks.

    head ─▶ front door: let in? ─ yes ─▶ body ─▶ endpoint ─▶ response
                                └ no ──▶ body ─▶ wait at the door ─▶ let in, or refuse

The body of a request that was not let in is kept, but not parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from serving.dataplane.call import Call
from serving.errors import NotReady
from serving.protocol.front_door import FrontDoor, read_allowed_s, read_rank
from serving.protocol.http.head import RequestHead
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.place import Place
from serving.protocol.http.refusal import REFUSED
from serving.protocol.http.response import CONTINUE, Response, render
from serving.protocol.http.rest import is_small
from serving.routing.slo import LATENCY_HEADER, PRIORITY_HEADER

MAX_WAITING_BYTES: Final = 64 * 1024
"""Maximum size of the body of a request that may wait to be let in. A larger one is refused."""

_PRIORITY: Final = PRIORITY_HEADER.encode()
_LATENCY: Final = LATENCY_HEADER.encode()

State: TypeAlias = Literal["outside", "waiting", "refused", "inside", "running", "done"]
"""outside: being read, not let in. waiting: read, and waiting for the front door. refused: the
refusal is held. inside: being read, let in. running: started. done: answered or cancelled."""


class InferenceExchange:
    """One inference request on a connection."""

    def __init__(
        self,
        head: RequestHead,
        place: Place,
        endpoint: InferenceEndpoint,
        front_door: FrontDoor,
        send_now: Callable[[bytes], None],
        on_response: Callable[[], None],
    ) -> None:
        """`on_response` is called when there is a response, `send_now` sends what precedes it."""
        self.keeps_alive = head.keeps_alive
        self.response: bytes | None = None
        self._head = head
        self._fields = head.fields
        self._place = place
        self._endpoint = endpoint
        self._door = front_door
        self._bodies = front_door.bodies
        self._held = 0
        """Bytes that count as occupied by this request."""
        self._is_read = False
        """Whether the whole body has been read."""
        self._send_now = send_now
        self._on_response = on_response
        self._body: bytes | bytearray = b""
        self._size = 0
        self._rank = read_rank(self._fields.get(_PRIORITY))
        self._state: State = "outside"
        self._waits_from = 0.0
        """When it had been read, and began to wait at the door."""
        self._hold: asyncio.TimerHandle | None = None
        self._call: Call | None = None
        self._is_continued = not head.expects_continue
        """Whether the client sends the body: it may be waiting for "100 Continue"."""

    @property
    def has_begun(self) -> bool:
        """Whether there is a response."""
        return self.response is not None

    @property
    def is_over(self) -> bool:
        """Whether there is a response."""
        return self.response is not None

    @property
    def _allowed_s(self) -> float | None:
        return read_allowed_s(self._fields.get(_LATENCY))

    def begin(self) -> None:
        """Let the request in if the front door is open. An invalid head is answered at once."""
        if self._door.is_open(self._rank, self._allowed_s, self._head.arrived):
            self._enter()
        elif self._head.expects_continue:
            self.refuse()  # its body, which could wait, is not sent

    def reach_front(self) -> None:
        """Ask for the body if the client waits for that."""
        if self._head.expects_continue and self._state == "inside":
            self._is_continued = True
            self._send_now(CONTINUE)

    def add_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._size += len(part)
        if self._state == "inside":
            if self._size > self._endpoint.max_body_bytes:
                self._respond(self._endpoint.too_large(self._head))
                return
            try:
                self._keep(part)
            except NotReady as failure:
                self._respond(self._endpoint.rejected(self._head, failure))
        elif self._state == "outside" and self._size <= MAX_WAITING_BYTES:
            try:
                self._keep(part)
            except NotReady as failure:
                self._send(self._endpoint.rejected(self._head, failure))

    def end_body(self) -> None:
        """Begin to answer it if it was let in."""
        self._is_continued = self._is_read = True
        if self._state == "inside":
            self._start()
        elif self._state == "outside":
            if self._size > MAX_WAITING_BYTES:
                self.refuse()
                return
            self._state = "waiting"
            self._waits_from = self._door.now()
            self._door.wait(self, self._rank, self._allowed_s, self._head.arrived)

    def hurry(self) -> None:
        """Refuse it if it waits, and send a refusal that is held."""
        if self._state == "waiting":
            self._door.withdraw(self, self._rank)
            self.refuse()
        if self._state == "refused":
            self._send_refusal()

    def cancel(self) -> None:
        """Forget the request."""
        state, self._state = self._state, "done"
        call, self._call = self._call, None
        self._free()
        if state == "waiting":
            self._door.withdraw(self, self._rank)
        elif state == "refused":
            self._drop_hold()
        elif state in ("inside", "running"):
            if call is not None:
                self._endpoint.cancel(call)
            self._door.leave(self._rank)

    def let_in(self) -> None:
        """Answer it. Called by the front door."""
        self._enter()
        if self._state == "inside" and self._size > self._endpoint.max_body_bytes:
            self._respond(self._endpoint.too_large(self._head))
        elif self._state == "inside":
            self._start(self._door.now() - self._waits_from)

    def refuse(self) -> None:
        """Refuse it now or later; see `RefusalPacer`. Called by the front door, among others."""
        self._state = "refused"
        self._body = b""
        self._free()
        hold_s = self._door.refuse()
        if hold_s:
            self._hold = asyncio.get_running_loop().call_later(hold_s, self._send_refusal)
        else:
            self._send_refusal()

    def _keep(self, part: bytes) -> None:
        """Add a part to the body. Raises `NotReady` if there is no room for it."""
        self._occupy(len(part))
        if not self._body:
            self._body = part
            return
        if isinstance(self._body, bytes):  # the body may come in millions of parts
            self._body = bytearray(self._body)
        self._body += part

    def _enter(self) -> None:
        self._state = "inside"
        self._door.enter(self._rank)
        error = self._endpoint.check_head(self._head)
        if error is not None:
            self._respond(error)

    def _start(self, waited_s: float = 0.0) -> None:
        self._state = "running"
        body, self._body = self._body, b""
        call = self._endpoint.start(
            self._head, self._place, body, waited_s, self._occupy, self._respond
        )
        if self._state == "running":
            self._call = call

    def _respond(self, response: Response) -> None:
        if self._state != "done":
            self._send(response)
            self._door.leave(self._rank)

    def _send_refusal(self) -> None:
        self._drop_hold()
        self._send(REFUSED)

    def _send(self, response: Response) -> None:
        self._state = "done"
        self._call = None  # breaks a reference cycle
        self._body = b""
        self._free()
        # What a client sends that did not wait for "100 Continue" could be taken for a request.
        self.keeps_alive = (
            self.keeps_alive
            and self._is_continued
            and (self._is_read or is_small(self._fields, self._size))
        )
        self.response = render(response, keeps_alive=self.keeps_alive)
        self._on_response()

    def _occupy(self, size: int) -> None:
        """Count this many more bytes as occupied. Raises `NotReady` if there is no room."""
        self._bodies.take(size)
        self._held += size

    def _free(self) -> None:
        self._bodies.free(self._held)
        self._held = 0

    def _drop_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
