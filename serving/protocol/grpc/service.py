"""The Open Inference Protocol V2 over gRPC: `inference.GRPCInferenceService`.

It parses requests, delegates them and renders responses; it makes no decision. The table of RPCs is
at the end of the file; those that run the model are in `inference.py`. grpc's services for health
and reflection are served beside them.
"""

from __future__ import annotations

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
from serving.dataplane.load_shedder import LoadShedder
from serving.errors import Unsupported
from serving.protocol.control import NO_REPOSITORY, Control, Repository
from serving.protocol.documents import Documents
from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.call import SERVICE, Context, Handler, Services, caller, unary
from serving.protocol.grpc.health import POLL_INTERVAL_S, Health
from serving.protocol.grpc.inference import MAX_STREAM_REQUESTS, GrpcInference
from serving.protocol.inference import Inference


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
        self._dataplane = dataplane
        self._documents = documents
        self._inference = GrpcInference(
            dataplane,
            inference,
            front_door or FrontDoor(LoadShedder(), on_refused=lambda: None, now=now),
            check_inference=control.check_inference if control else None,
            max_stream_requests=max_stream_requests,
            now=now,
        )
        self._health = Health(
            lambda: dataplane.readiness.is_ready, [SERVICE], poll_interval_s=health_poll_interval_s
        )

    def services(self) -> Services:
        """Return the handlers of all RPCs but `ModelInfer`."""
        handlers = {
            name: unary(f"/{SERVICE}/{name}", message, partial(handle, self))
            for name, message, handle in RPCS
        }
        handlers["ModelStreamInfer"] = self._inference.stream()
        services = {SERVICE: handlers, **self._health.services()}
        return {**services, **_reflection([*services, reflection.SERVICE_NAME])}

    def inference(self) -> grpc.GenericRpcHandler:
        """Return the handler of `ModelInfer`, which decides on a call before its message is read.

        grpc accepts one call at a time of those in generic handlers, and one of each RPC in
        `services`, so that checks of health do not wait for inference requests.
        """
        return self._inference.unary()

    def stop(self) -> None:
        """Read no more from the streams. They end once the requests read so far have responses."""
        self._health.stop()
        self._inference.stop()

    async def server_live(self, request: Any, context: Context) -> Any:
        """Report that the process runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        """Return whether the service is ready for requests."""
        return pb.ServerReadyResponse(ready=self._dataplane.readiness.is_ready)

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
        actor = repository.authorize(caller(context))
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        }
        await repository.load(request.model_name, parameters, actor)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any, context: Context) -> Any:
        """Remove the variant of this name."""
        repository = self._repository()
        await repository.unload(request.model_name, repository.authorize(caller(context)))
        return pb.RepositoryModelUnloadResponse()

    def _repository(self) -> Repository:
        if self._control is None:
            raise Unsupported(NO_REPOSITORY)
        return self._control.repository


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
