"""Refusals of gRPC inference requests by their metadata.

A unary call is decided on when its handler is looked up: its metadata have arrived, its message has
not been read. A stream has one set of metadata for all of its messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import grpc
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.refusal_pacer import MAX_HOLD_S
from serving.protocol.front_door import (
    REFUSAL,
    FrontDoor,
    read_allowed_s,
    read_rank,
)
from serving.protocol.grpc.call import RETRY_AFTER, Context, Handler
from serving.routing.slo import LATENCY_HEADER, PRIORITY_HEADER

CALL_ITERATIONS: Final = 5
"""Number of iterations that the event loop begins from reading the event of a new call until grpc
looks up its handler: the call, its task, the wait for any call, and two tasks for the handler."""

MESSAGE_ITERATIONS: Final = 1
"""Number of iterations that the event loop begins from reading the event of a message of an open
call until the handler has it."""

_TRAILING: Final = ((RETRY_AFTER, f"{MAX_HOLD_S * 1e3:.0f}"),)
_STREAM_REFUSAL: Final[bytes] = pb.ModelStreamInferResponse(
    error_message=REFUSAL, infer_response=pb.ModelInferResponse()
).SerializeToString()


class Terms(NamedTuple):
    """What the metadata of a call state that decides whether it is refused."""

    rank: int
    """Its priority; 1 is the highest."""
    allowed_s: float | None
    """Its deadline in seconds; None if the metadata state none."""


def read_terms(metadata: Iterable[tuple[str, Any]]) -> Terms:
    """Read the terms of a call. Invalid values count as absent."""
    values = dict(metadata)
    return Terms(read_rank(values.get(PRIORITY_HEADER)), read_allowed_s(values.get(LATENCY_HEADER)))


class CallAdmission(grpc.GenericRpcHandler):
    """Looks up the handler of each call of one unary RPC."""

    def __init__(
        self, path: str, front_door: FrontDoor, handler: Callable[[Terms, float], Handler]
    ) -> None:
        """`handler` returns the handler of a call that is let in, from its terms and arrival."""
        self._path = path
        self._front_door = front_door
        self._handler = handler
        # A handler of a unary call gets its message, a handler of a stream reads what it wants.
        self._refuse_call: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call that has arrived; None if it is of another RPC."""
        if handler_call_details.method != self._path:
            return None
        arrived = self._front_door.arrivals.arrived_before(CALL_ITERATIONS)
        terms = read_terms(handler_call_details.invocation_metadata)
        if self._front_door.is_open(terms.rank, terms.allowed_s, arrived):
            return self._handler(terms, arrived)
        return self._refuse_call

    async def _refuse(self, requests: object, context: Context) -> None:
        # A client that cancels its call cancels this task.
        if hold_s := self._front_door.refuse():
            await asyncio.sleep(hold_s)
        context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
        context.set_details(REFUSAL)
        context.set_trailing_metadata(_TRAILING)


async def refuse_message(front_door: FrontDoor, is_next_read: asyncio.Event) -> bytes:
    """Return the response to a refused message of a stream, now or later; see `RefusalPacer`.

    It is not held any longer once the next message is read: its client does not wait for it, and
    responses are sent in order.
    """
    if hold_s := front_door.refuse():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hold_s):
                await is_next_read.wait()
    return _STREAM_REFUSAL
