"""A client connection whose requests the front door lets in or refuses.

Requests that the gateway cannot answer in time are refused before their bodies are parsed.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.protocol.front_door import FrontDoor
from serving.protocol.http.limited_connection import LimitedConnection
from serving.protocol.http.refusal import CLOSE, KEEP_ALIVE, HeldRefusal, allowed_s_of, rank_of
from serving.protocol.http.unadmitted import UnadmittedRequest


class Connection(LimitedConnection):
    """The protocol class of a listener."""

    def __init__(self, *args: Any, front_door: FrontDoor, **kwargs: Any) -> None:
        """Pass on the arguments of `LimitedConnection`."""
        super().__init__(*args, **kwargs)
        self._front_door = front_door
        self._unadmitted: UnadmittedRequest | None = None
        """A request that has neither been let in nor refused yet."""
        self._refusal = HeldRefusal(self._send_refusal)

    def _admits(self) -> bool:
        self._refusal.release()  # the client has sent the next request without waiting for it
        arrived = self._front_door.arrivals.arrived_at(self.transport.get_extra_info("socket"))
        target = self.url.decode("latin-1")
        rank = rank_of(self.parser.get_method().decode("latin-1"), target, self.headers)
        scope: Any = self.scope  # its type has no keys of our own
        scope["arrived"], scope["rank"] = arrived, rank
        self._unadmitted = self._unadmitted_request(rank, arrived)
        return self._unadmitted is None

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._unadmitted is None:
            super().on_body(body)
        else:
            self._unparsed_bytes = 0
            self._unadmitted.add(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._unadmitted is None:
            super().on_message_complete()
            return
        self._unparsed_bytes = 0
        now, keeps_alive = self._front_door.now(), self.parser.should_keep_alive()
        self._unadmitted.end(now, keeps_alive=keeps_alive)
        if self._unadmitted.may_wait:
            waiting = self._unadmitted
            self._front_door.wait(self, waiting.rank, waiting.allowed_s, waiting.arrived)
        else:
            self.refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._refusal.drop()
        if self._unadmitted is not None:
            self._front_door.withdraw(self, self._unadmitted.rank)
            self._unadmitted = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Called by the server when it stops."""
        self._refuse_if_waiting()
        self._refusal.release()
        super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, app)
        scope: Any = cycle.scope
        rank: int | None = scope["rank"]
        if rank is not None:
            self._front_door.enter(rank)
            self._task.add_done_callback(partial(self._leave, rank))

    def _leave(self, rank: int, _: asyncio.Task[None]) -> None:
        self._front_door.leave(rank)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._refuse_if_waiting()  # the client has sent the next request without waiting for it
        super().on_message_begin()

    def let_in(self) -> None:
        """Answer the request that waits. Called by the front door."""
        request, self._unadmitted = self._unadmitted, None
        assert request is not None
        scope: Any = self.scope
        scope["waited"] = self._front_door.now() - request.waits_from
        self._begin()
        super().on_body(bytes(request.body))
        super().on_message_complete()

    def refuse(self) -> None:
        """Refuse the request that waits, now or later; see `RefusalPacer`."""
        request, self._unadmitted = self._unadmitted, None
        assert request is not None
        self.scope = None  # type: ignore[assignment]  # until the next message begins
        hold_s = self._front_door.refuse()
        self._refusal.hold(hold_s, keeps_alive=request.keeps_alive)

    def _refuse_if_waiting(self) -> None:
        if self._unadmitted is not None and self._unadmitted.is_complete:
            self._front_door.withdraw(self, self._unadmitted.rank)
            self.refuse()

    def _unadmitted_request(self, rank: int | None, arrived: float) -> UnadmittedRequest | None:
        """Return the request whose head has been read if it is not let in now.

        Requests that are pipelined behind one that is running are always let in, because responses
        are sent in order, and so are those that wait for "100 Continue".
        """
        if rank is None or self.expect_100_continue:
            return None
        if self.cycle and not self.cycle.response_complete:
            return None
        allowed_s = allowed_s_of(self.headers)
        if self._front_door.is_open(rank, allowed_s, arrived):
            return None
        return UnadmittedRequest(rank, allowed_s, arrived)

    def _send_refusal(self, keeps_alive: bool) -> None:
        self.transport.write(KEEP_ALIVE if keeps_alive else CLOSE)
        if keeps_alive:
            self._close_after(self.timeout_keep_alive)
        else:
            self.transport.close()
