"""The RPCs that run the model: ModelInfer and ModelStreamInfer.

    call ─▶ front door ─▶ size, structure ─▶ message ─▶ Inference ─▶ response

A call of ModelInfer is let in or refused by its metadata, before its message is read; a stream is
always accepted, and each of its messages is let in or refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.awaiting import ended
from serving.dataplane.call import Call
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.dataplane.request import OnEnd
from serving.errors import InvalidRequest, NotReady, ServingError
from serving.protocol.control import Caller
from serving.protocol.failure import log_failure
from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.admission import (
    MESSAGE_ITERATIONS,
    CallAdmission,
    Terms,
    read_terms,
    refuse_message,
)
from serving.protocol.grpc.call import (
    SERVICE,
    Context,
    Handler,
    answer,
    caller,
    client_message,
    fail,
    parse_message,
    read_metadata,
)
from serving.protocol.grpc.codec import parse_request, render_response
from serving.protocol.grpc.structure import check_structure
from serving.protocol.inference import Inference
from serving.protocol.messages import InferResponse

INFER: Final = f"/{SERVICE}/ModelInfer"
STREAM: Final = f"/{SERVICE}/ModelStreamInfer"
MAX_STREAM_REQUESTS: Final = 64
"""Default maximum number of requests of one stream that are in progress at the same time."""

WANTS_FINAL: Final = "triton_enable_empty_final_response"
"""Request parameter of Triton's streams: mark the last response to the request."""

IS_FINAL: Final = "triton_final_response"
"""Response parameter of Triton's streams: this is the last response to the request."""

_StreamResponse: TypeAlias = "asyncio.Task[tuple[bytes, float | None]]"
"""A response of a stream, and when the data plane had its answer, if it had one."""


class GrpcInference:
    """Answers inference requests, of unary calls and of streams."""

    def __init__(
        self,
        dataplane: DataPlane,
        inference: Inference,
        front_door: FrontDoor,
        *,
        check_inference: Callable[[Caller], None] | None,
        max_stream_requests: int,
        now: Callable[[], float],
    ) -> None:
        """Process at most `max_stream_requests` of one stream at the same time.

        `check_inference` raises an error for a caller that may not run the model; without it, all
        may.
        """
        self._dataplane = dataplane
        self._inference = inference
        self._front_door = front_door
        self._check_inference = check_inference
        self._max_stream_requests = max_stream_requests
        self._now = now
        self._delivery = Delivery()
        self._is_stopping = False
        self._readers: set[asyncio.Task[None]] = set()

    def unary(self) -> grpc.GenericRpcHandler:
        """Return the handler of ModelInfer."""
        return CallAdmission(INFER, self._front_door, self._call_handler)

    def stream(self) -> Handler:
        """Return the handler of ModelStreamInfer."""
        handler: Handler = grpc.stream_stream_rpc_method_handler(self._stream)
        return handler

    def stop(self) -> None:
        """Read no more from the streams. They end once the requests read so far have responses."""
        self._is_stopping = True
        for reader in self._readers:
            reader.cancel()

    def _call_handler(self, terms: Terms, arrived: float) -> Handler:
        """Return the handler of one call of `ModelInfer`, which arrived at `arrived`."""

        async def handle(request: Any, context: Context) -> Any:
            response, answered_at = await self._infer(
                request, self._metadata(context), context, arrived
            )

            def record(ended: Context) -> None:
                self._record_written(answered_at)

            # grpc calls it once it has written the response. Its types want a class of their own.
            context.add_done_callback(record)  # type: ignore[arg-type]
            return response

        async def handle_bytes(raw: bytes, context: Context) -> bytes:
            self._front_door.enter(terms.rank)
            try:
                with self._front_door.bodies.occupied(len(raw)):
                    check_structure(raw)
                    return await answer(
                        raw, context, INFER, pb.ModelInferRequest, handle, self._dataplane.rejected
                    )
            except ServingError as error:
                self._dataplane.rejected(error)
                fail(error, INFER, context)
                return b""
            finally:
                self._front_door.leave(terms.rank)

        handler: Handler = grpc.unary_unary_rpc_method_handler(handle_bytes)
        return handler

    async def _stream(self, requests: object, context: Context) -> None:
        """Process the requests of a stream concurrently; send the responses in request order."""
        responses: asyncio.Queue[_StreamResponse | None] = asyncio.Queue()
        free = asyncio.Semaphore(self._max_stream_requests)
        reader = asyncio.create_task(self._read(context, free, responses))
        reader.add_done_callback(lambda _: responses.put_nowait(None))
        reader.add_done_callback(self._readers.discard)
        self._readers.add(reader)
        if self._is_stopping:
            reader.cancel()
        try:
            while (response := await responses.get()) is not None:
                message, answered_at = await response
                await context.write(message)
                if answered_at is not None:
                    self._record_written(answered_at)
                free.release()
        finally:
            reader.cancel()
            cancelled: list[asyncio.Task[Any]] = [reader]
            while not responses.empty():
                if (response := responses.get_nowait()) is not None:
                    response.cancel()
                    cancelled.append(response)
            await asyncio.gather(*cancelled, return_exceptions=True)
        if reader.cancelled():
            fail(NotReady("the service is stopping"), STREAM, context)
        elif isinstance(error := reader.exception(), Exception):
            fail(error, STREAM, context)

    async def _read(
        self,
        context: Context,
        free: asyncio.Semaphore,
        responses: asyncio.Queue[_StreamResponse | None],
    ) -> None:
        metadata = self._metadata(context)
        terms = read_terms(metadata.items())
        is_next_read = asyncio.Event()
        while await free.acquire():
            raw: Any = await context.read()
            if raw is grpc.aio.EOF:
                return
            is_next_read.set()
            is_next_read = asyncio.Event()
            arrived = self._front_door.arrivals.arrived_before(MESSAGE_ITERATIONS)
            if self._front_door.is_open(terms.rank, terms.allowed_s, arrived):
                answering = self._stream_response(raw, metadata, context, terms, arrived)
            else:
                answering = self._refuse_message(is_next_read)
            responses.put_nowait(asyncio.create_task(answering))

    async def _stream_response(
        self,
        raw: bytes,
        metadata: Mapping[str, str],
        context: Context,
        terms: Terms,
        arrived: float,
    ) -> tuple[bytes, float | None]:
        """Return the response to one request of a stream, and when the data plane had its answer.

        An error does not end the stream; it has no such time.
        """
        self._front_door.enter(terms.rank)
        try:
            with self._front_door.bodies.occupied(len(raw)):
                check_structure(raw)
                request = parse_message(pb.ModelInferRequest, raw)
                return await self._answer_message(request, metadata, context, arrived)
        except Exception as error:
            self._dataplane.rejected(error)
            return _stream_error(error, ""), None
        finally:
            self._front_door.leave(terms.rank)

    async def _answer_message(
        self, request: Any, metadata: Mapping[str, str], context: Context, arrived: float
    ) -> tuple[bytes, float | None]:
        try:
            response, answered_at = await self._infer(request, metadata, context, arrived)
            if WANTS_FINAL in request.parameters and request.parameters[WANTS_FINAL].bool_param:
                response.parameters[IS_FINAL].bool_param = True
            message = pb.ModelStreamInferResponse(infer_response=response)
            return message.SerializeToString(), answered_at
        except Exception as error:
            if not isinstance(error, ServingError):
                self._dataplane.rejected(error)
            return _stream_error(error, request.id), None

    async def _refuse_message(self, is_next_read: asyncio.Event) -> tuple[bytes, None]:
        return await refuse_message(self._front_door, is_next_read), None

    async def _infer(
        self, message: Any, metadata: Mapping[str, str], context: Context, arrived: float
    ) -> tuple[Any, float]:
        """Return the response, and when the data plane had its answer."""
        # grpc counts the deadline of a call from its arrival, and returns what is left of it.
        left_s: float | None = context.time_remaining()
        timeout_s = math.inf if left_s is None else left_s + self._now() - arrived
        model, variant = message.model_name, message.model_version or None
        try:
            if self._check_inference is not None:
                self._check_inference(caller(context))
            request = parse_request(message, self._dataplane.max_values)
        except ServingError as error:
            self._inference.reject(model, variant, error)
            raise
        answered_at = math.nan

        def start(on_end: OnEnd[InferResponse]) -> Call:
            def end(result: InferResponse | Exception) -> None:
                nonlocal answered_at
                answered_at = self._now()
                on_end(result)

            return self._inference.start(
                model, variant, request, metadata, arrived, end, self._delivery, timeout_s
            )

        response = await ended(start, self._inference.cancel)
        return render_response(response), answered_at

    def _record_written(self, answered_at: float) -> None:
        now = self._now()
        self._delivery.record_written(now, now - answered_at)

    def _metadata(self, context: Context) -> dict[str, str]:
        """Return the metadata of inference requests. Raises `InvalidRequest`, which is counted."""
        try:
            return read_metadata(context)
        except InvalidRequest as error:
            self._dataplane.rejected(error)
            raise


def _stream_error(error: Exception, identifier: str) -> bytes:
    """Log an error that was counted, and return the response of a stream to its request."""
    log_failure(error, STREAM, route=STREAM)
    message = pb.ModelStreamInferResponse(error_message=client_message(error))
    message.infer_response.id = identifier
    raw: bytes = message.SerializeToString()
    return raw
