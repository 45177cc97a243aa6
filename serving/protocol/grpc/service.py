"""V2 over gRPC, `inference.GRPCInferenceService`: parse, delegate, render. Nothing is decided here.

The RPCs are one table at the end of the file; beside them there are grpc's own services for health
and reflection.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as reflection_pb
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.dataplane import DataPlane
from serving.errors import NotReady, ServingError, Unsupported
from serving.protocol.documents import Documents
from serving.protocol.failure import log_failure
from serving.protocol.grpc.call import Context, Handler, Services, fail, parse_message, told, unary
from serving.protocol.grpc.codec import parse_request, render_response
from serving.protocol.grpc.health import Health
from serving.protocol.inference import Inference

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
STREAM: Final = f"/{SERVICE}/ModelStreamInfer"
STREAM_REQUESTS: Final = 64

WANTS_FINAL: Final = "triton_enable_empty_final_response"
IS_FINAL: Final = "triton_final_response"


class GrpcProtocol:
    """The gRPC services of a gateway."""

    def __init__(
        self,
        dataplane: DataPlane,
        inference: Inference,
        documents: Documents,
        *,
        stream_requests: int = STREAM_REQUESTS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of one stream, `stream_requests` are taken at a time; more are read as they are done."""
        self._dataplane = dataplane
        self._inference = inference
        self._documents = documents
        self._stream_requests = stream_requests
        self._now = now
        self._health = Health(lambda: dataplane.is_ready, [SERVICE])
        self._is_stopping = False
        self._readers: set[asyncio.Task[None]] = set()

    def services(self) -> Services:
        """Return the handlers of every service."""
        own = {
            name: unary(f"/{SERVICE}/{name}", message, partial(answer, self))
            for name, message, answer in RPCS
        }
        own["ModelInfer"] = unary(
            f"/{SERVICE}/ModelInfer", pb.ModelInferRequest, self.infer, self._dataplane.rejected
        )
        own["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        services = {SERVICE: own, **self._health.services()}
        return {**services, **_reflection([*services, reflection.SERVICE_NAME])}

    def stop(self) -> None:
        """Read no more of the streams: what was read is answered, and then they end."""
        self._is_stopping = True
        self._health.stop()
        for reader in self._readers:
            reader.cancel()

    async def server_live(self, request: Any, context: Context) -> Any:
        """The process runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        """Every variant has been up."""
        return pb.ServerReadyResponse(ready=self._dataplane.is_ready)

    async def model_ready(self, request: Any, context: Context) -> Any:
        """The model, or one variant, can answer."""
        is_ready = self._documents.is_ready(request.name, request.version or None)
        return pb.ModelReadyResponse(ready=is_ready)

    async def server(self, request: Any, context: Context) -> Any:
        """What this server is."""
        return ParseDict(self._documents.server(), pb.ServerMetadataResponse())

    async def model(self, request: Any, context: Context) -> Any:
        """The metadata of the model; its versions are the variants."""
        document = self._documents.model(request.name, request.version or None)
        return ParseDict(document, pb.ModelMetadataResponse())

    async def config(self, request: Any, context: Context) -> Any:
        """The configuration of the model."""
        document = self._documents.config(request.name, request.version or None)
        return ParseDict({"config": document}, pb.ModelConfigResponse())

    async def statistics(self, request: Any, context: Context) -> Any:
        """What was counted, of the variants of one model or of all."""
        document = self._documents.statistics(request.name or None, request.version or None)
        return ParseDict(document, pb.ModelStatisticsResponse())

    async def index(self, request: Any, context: Context) -> Any:
        """The variants and whether they can answer."""
        models = self._documents.index(only_ready=request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def infer(self, request: Any, context: Context) -> Any:
        """Tensors in, tensors out, and why."""
        return await self._infer(request, _metadata(context), context)

    async def _infer(self, request: Any, metadata: Mapping[str, str], context: Context) -> Any:
        received = self._now()
        left_s: float | None = context.time_remaining()
        _, response = await self._inference.answer(
            request.model_name,
            request.model_version or None,
            partial(parse_request, request),
            metadata,
            received,
            math.inf if left_s is None else left_s,
        )
        return render_response(response)

    async def _stream(self, requests: object, context: Context) -> None:
        """Answer the requests of a stream at the same time, but in the order in which they came."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        free = asyncio.Semaphore(self._stream_requests)
        reader = asyncio.create_task(self._read(context, free, answers))
        reader.add_done_callback(lambda _: answers.put_nowait(None))
        reader.add_done_callback(self._readers.discard)
        self._readers.add(reader)
        if self._is_stopping:
            reader.cancel()
        try:
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                free.release()
        finally:
            reader.cancel()
            left: list[asyncio.Task[Any]] = [reader]
            while not answers.empty():
                if (answer := answers.get_nowait()) is not None:
                    answer.cancel()
                    left.append(answer)
            await asyncio.gather(*left, return_exceptions=True)
        if reader.cancelled():
            fail(NotReady("the service is stopping"), STREAM, context)
        elif isinstance(error := reader.exception(), Exception):
            fail(error, STREAM, context)

    async def _read(
        self,
        context: Context,
        free: asyncio.Semaphore,
        answers: asyncio.Queue[asyncio.Task[bytes] | None],
    ) -> None:
        metadata = _metadata(context)
        while await free.acquire():
            raw: Any = await context.read()
            if raw is grpc.aio.EOF:
                return
            answers.put_nowait(asyncio.create_task(self._streamed(raw, metadata, context)))

    async def _streamed(self, raw: bytes, metadata: Mapping[str, str], context: Context) -> bytes:
        """Answer one request of a stream; what fails it fails no other."""
        identifier = ""
        try:
            try:
                request = parse_message(pb.ModelInferRequest, raw)
            except ServingError as error:
                self._dataplane.rejected(error)
                raise
            identifier = request.id
            response = await self._infer(request, metadata, context)
            if WANTS_FINAL in request.parameters and request.parameters[WANTS_FINAL].bool_param:
                response.parameters[IS_FINAL].bool_param = True
            answer = pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            if not isinstance(error, ServingError):
                self._dataplane.rejected(error)
            log_failure(error, STREAM)
            answer = pb.ModelStreamInferResponse(error_message=told(error))
            answer.infer_response.id = identifier
        serialized: bytes = answer.SerializeToString()
        return serialized


def _metadata(context: Context) -> dict[str, str]:
    return {
        name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def _reflection(services: Sequence[str]) -> Services:
    servicer = reflection.aio.ReflectionServicer(services)

    def parse(raw: bytes) -> Any:
        try:
            return reflection_pb.ServerReflectionRequest.FromString(raw)
        except DecodeError:
            return reflection_pb.ServerReflectionRequest()  # which it answers as an invalid one

    handler: Handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        parse,
        reflection_pb.ServerReflectionResponse.SerializeToString,
    )
    return {reflection.SERVICE_NAME: {"ServerReflectionInfo": handler}}


_Answer: TypeAlias = Callable[[GrpcProtocol, Any, Context], Awaitable[Any]]


def _without(message: str) -> _Answer:
    async def refuse(protocol: GrpcProtocol, request: Any, context: Context) -> Any:
        raise Unsupported(message)

    return refuse


_LOADED: Final = _without("models are not loaded or unloaded on the fly here")
_SHARED: Final = _without("shared memory is not offered here; send the tensors' bytes")
_TRACED: Final = _without("the trace settings cannot be asked for or changed here")
_LOGGED: Final = _without("the log settings cannot be asked for or changed here")

RPCS: Final[tuple[tuple[str, Any, _Answer], ...]] = (
    ("ServerLive", pb.ServerLiveRequest, GrpcProtocol.server_live),
    ("ServerReady", pb.ServerReadyRequest, GrpcProtocol.server_ready),
    ("ModelReady", pb.ModelReadyRequest, GrpcProtocol.model_ready),
    ("ServerMetadata", pb.ServerMetadataRequest, GrpcProtocol.server),
    ("ModelMetadata", pb.ModelMetadataRequest, GrpcProtocol.model),
    ("ModelConfig", pb.ModelConfigRequest, GrpcProtocol.config),
    ("ModelStatistics", pb.ModelStatisticsRequest, GrpcProtocol.statistics),
    ("RepositoryIndex", pb.RepositoryIndexRequest, GrpcProtocol.index),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest, _LOADED),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, _LOADED),
    ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest, _SHARED),
    ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest, _SHARED),
    ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest, _SHARED),
    ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest, _SHARED),
    ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest, _SHARED),
    ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest, _SHARED),
    ("TraceSetting", pb.TraceSettingRequest, _TRACED),
    ("LogSettings", pb.LogSettingsRequest, _LOGGED),
)
"""All but ModelInfer, which counts, and ModelStreamInfer, which is no call with one answer."""
