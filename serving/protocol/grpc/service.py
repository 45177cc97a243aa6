"""The Open Inference Protocol V2 over gRPC: `inference.GRPCInferenceService`.

It parses requests, delegates them and renders responses; it makes no decision. The table of RPCs is
at the end of the file. grpc's services for health and reflection are served beside them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as reflection_pb
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.awaiting import ended
from serving.dataplane.call import Call
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.request import OnEnd
from serving.errors import InvalidRequest, NotReady, ServingError, Unsupported
from serving.protocol.control import AUTHORIZATION, NO_REPOSITORY, Caller, Control, Repository
from serving.protocol.documents import Documents
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
    Context,
    Handler,
    Services,
    answer,
    client_message,
    fail,
    parse_message,
    unary,
)
from serving.protocol.grpc.codec import parse_request, render_response
from serving.protocol.grpc.health import POLL_INTERVAL_S, Health
from serving.protocol.grpc.structure import check_structure
from serving.protocol.inference import Inference
from serving.protocol.messages import InferResponse
from serving.protocol.repeated import join_repeated

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
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


class GrpcProtocol:
    """The gRPC services of a gateway."""

    def __init__(
        self,
        dataplane: DataPlane,
        inference: Inference,
        documents: Documents,
        *,
        front_door: FrontDoor | None = None,
        control: Control | None = None,
        max_stream_requests: int = MAX_STREAM_REQUESTS,
        health_poll_interval_s: float = POLL_INTERVAL_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Process at most `max_stream_requests` of one stream at the same time.

        `front_door` decides which inference requests are refused before they are parsed; without
        one, none is. Without `control`, nothing about the variants can be changed.
        """
        self._control = control
        self._check_inference = control.check_inference if control else None
        self._dataplane = dataplane
        self._inference = inference
        self._documents = documents
        self._front_door = front_door or FrontDoor(LoadShedder(), on_refused=lambda: None, now=now)
        self._max_stream_requests = max_stream_requests
        self._now = now
        self._delivery = Delivery()
        self._health = Health(
            lambda: dataplane.is_ready, [SERVICE], poll_interval_s=health_poll_interval_s
        )
        self._is_stopping = False
        self._readers: set[asyncio.Task[None]] = set()

    def services(self) -> Services:
        """Return the handlers of all RPCs but `ModelInfer`."""
        handlers = {
            name: unary(f"/{SERVICE}/{name}", message, partial(handle, self))
            for name, message, handle in RPCS
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        services = {SERVICE: handlers, **self._health.services()}
        return {**services, **_reflection([*services, reflection.SERVICE_NAME])}

    def inference(self) -> grpc.GenericRpcHandler:
        """Return the handler of `ModelInfer`, which decides on a call before its message is read.

        grpc accepts one call at a time of those in generic handlers, and one of each RPC in
        `services`, so that checks of health do not wait for inference requests.
        """
        return CallAdmission(INFER, self._front_door, self._call_handler)

    def stop(self) -> None:
        """Read no more from the streams. They end once the requests read so far have responses."""
        self._is_stopping = True
        self._health.stop()
        for reader in self._readers:
            reader.cancel()

    async def server_live(self, request: Any, context: Context) -> Any:
        """Report that the process runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        """Return whether the service is ready for requests."""
        return pb.ServerReadyResponse(ready=self._dataplane.is_ready)

    async def model_ready(self, request: Any, context: Context) -> Any:
        """Return whether the model, or one variant, is ready."""
        is_ready = self._documents.is_ready(request.name, request.version or None)
        return pb.ModelReadyResponse(ready=is_ready)

    async def server(self, request: Any, context: Context) -> Any:
        """Return the metadata of the server."""
        return ParseDict(self._documents.server(), pb.ServerMetadataResponse())

    async def model(self, request: Any, context: Context) -> Any:
        """Return the metadata of the model. Its versions are the variants."""
        document = self._documents.model(request.name, request.version or None)
        return ParseDict(document, pb.ModelMetadataResponse())

    async def config(self, request: Any, context: Context) -> Any:
        """Return the configuration of the model."""
        document = self._documents.config(request.name, request.version or None)
        return ParseDict({"config": document}, pb.ModelConfigResponse())

    async def statistics(self, request: Any, context: Context) -> Any:
        """Return the statistics of the variants of one model, or of all models."""
        document = self._documents.statistics(request.name or None, request.version or None)
        return ParseDict(document, pb.ModelStatisticsResponse())

    async def index(self, request: Any, context: Context) -> Any:
        """Return the variants and whether each is ready."""
        unloaded: Mapping[str, str] = {}
        if self._control is not None and not request.ready:
            unloaded = await self._control.repository.unloaded()
        models = self._documents.index(only_ready=request.ready, unloaded=unloaded)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def load(self, request: Any, context: Context) -> Any:
        """Add the variant of this name."""
        repository = self._repository()
        actor = repository.authorize(_caller(context))
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        }
        await repository.load(request.model_name, parameters, actor)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any, context: Context) -> Any:
        """Remove the variant of this name."""
        repository = self._repository()
        await repository.unload(request.model_name, repository.authorize(_caller(context)))
        return pb.RepositoryModelUnloadResponse()

    def _repository(self) -> Repository:
        if self._control is None:
            raise Unsupported(NO_REPOSITORY)
        return self._control.repository

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
                    check_structure(raw, self._dataplane.max_values)
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

    def _metadata(self, context: Context) -> dict[str, str]:
        """Return the metadata of inference requests. Raises `InvalidRequest`, which is counted."""
        try:
            return _metadata(context)
        except InvalidRequest as error:
            self._dataplane.rejected(error)
            raise

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
                self._check_inference(_caller(context))
            request = parse_request(message)
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
        identifier, answered_at = "", None
        bodies, held = self._front_door.bodies, 0
        self._front_door.enter(terms.rank)
        try:
            try:
                bodies.take(len(raw))
                held = len(raw)
                check_structure(raw, self._dataplane.max_values)
                request = parse_message(pb.ModelInferRequest, raw)
            except ServingError as error:
                self._dataplane.rejected(error)
                raise
            identifier = request.id
            response, answered_at = await self._infer(request, metadata, context, arrived)
            if WANTS_FINAL in request.parameters and request.parameters[WANTS_FINAL].bool_param:
                response.parameters[IS_FINAL].bool_param = True
            message = pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            if not isinstance(error, ServingError):
                self._dataplane.rejected(error)
            log_failure(error, STREAM)
            message = pb.ModelStreamInferResponse(error_message=client_message(error))
            message.infer_response.id = identifier
        finally:
            bodies.free(held)
            self._front_door.leave(terms.rank)
        return message.SerializeToString(), answered_at

    async def _refuse_message(self, is_next_read: asyncio.Event) -> tuple[bytes, None]:
        return await refuse_message(self._front_door, is_next_read), None


def _metadata(context: Context) -> dict[str, str]:
    """Return the metadata of a call that are text. Raises `InvalidRequest`."""
    metadata = context.invocation_metadata() or ()
    return join_repeated((name, value) for name, value in metadata if isinstance(value, str))


def _caller(context: Context) -> Caller:
    transport, _, rest = str(context.peer()).partition(":")
    address = rest.rpartition(":")[0] if transport in ("ipv4", "ipv6") else rest
    return Caller(_metadata(context).get(AUTHORIZATION), unquote(address).strip("[]"))


def _reflection(services: Sequence[str]) -> Services:
    servicer = reflection.aio.ReflectionServicer(services)

    def parse(raw: bytes) -> Any:
        try:
            return reflection_pb.ServerReflectionRequest.FromString(raw)
        except DecodeError:
            # An empty request gets an error response from the servicer.
            return reflection_pb.ServerReflectionRequest()

    handler: Handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        parse,
        reflection_pb.ServerReflectionResponse.SerializeToString,
    )
    return {reflection.SERVICE_NAME: {"ServerReflectionInfo": handler}}


_Rpc: TypeAlias = Callable[[GrpcProtocol, Any, Context], Awaitable[Any]]


def _unsupported(message: str) -> _Rpc:
    async def reject(protocol: GrpcProtocol, request: Any, context: Context) -> Any:
        raise Unsupported(message)

    return reject


_SHARED_MEMORY: Final = _unsupported("shared memory is not supported; send the tensors' bytes")
_TRACE: Final = _unsupported("trace settings are not supported")
_LOG: Final = _unsupported("log settings are not supported")

RPCS: Final[tuple[tuple[str, Any, _Rpc], ...]] = (
    ("ServerLive", pb.ServerLiveRequest, GrpcProtocol.server_live),
    ("ServerReady", pb.ServerReadyRequest, GrpcProtocol.server_ready),
    ("ModelReady", pb.ModelReadyRequest, GrpcProtocol.model_ready),
    ("ServerMetadata", pb.ServerMetadataRequest, GrpcProtocol.server),
    ("ModelMetadata", pb.ModelMetadataRequest, GrpcProtocol.model),
    ("ModelConfig", pb.ModelConfigRequest, GrpcProtocol.config),
    ("ModelStatistics", pb.ModelStatisticsRequest, GrpcProtocol.statistics),
    ("RepositoryIndex", pb.RepositoryIndexRequest, GrpcProtocol.index),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest, GrpcProtocol.load),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, GrpcProtocol.unload),
    ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest, _SHARED_MEMORY),
    ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest, _SHARED_MEMORY),
    ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest, _SHARED_MEMORY),
    ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest, _SHARED_MEMORY),
    ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest, _SHARED_MEMORY),
    ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest, _SHARED_MEMORY),
    ("TraceSetting", pb.TraceSettingRequest, _TRACE),
    ("LogSettings", pb.LogSettingsRequest, _LOG),
)
"""All RPCs except ModelInfer, which may be refused by its metadata, and ModelStreamInfer."""
