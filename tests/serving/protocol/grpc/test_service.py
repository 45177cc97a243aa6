"""The RPCs beside inference: metadata, health, reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.grpc.call import SERVICE
from serving.protocol.grpc.service import RPCS
from tests.serving.builders import InProcess, in_process
from tests.serving.protocol.grpc.calls import (
    call,
    infer_request,
    serving,
)


@pytest.fixture
async def gateway() -> InProcess:
    return in_process()


@pytest.fixture
async def channel(gateway: InProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(gateway) as channel:
        yield channel


def test_every_rpc_of_the_service_is_implemented() -> None:
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert sorted([*(name for name, _, _ in RPCS), "ModelInfer", "ModelStreamInfer"]) == sorted(
        method.name for method in methods
    )
    for method in methods:
        for name, message, _ in RPCS:
            assert name != method.name or message.DESCRIPTOR is method.input_type


def as_document(message: Any) -> Any:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.mark.parametrize(
    ("rpc", "fields", "document"),
    [
        ("ServerMetadata", {}, lambda gateway: gateway.documents.server()),
        (
            "ModelMetadata",
            {"name": "shirts"},
            lambda gateway: gateway.documents.model("shirts", None),
        ),
        (
            "ModelMetadata",
            {"name": "shirts", "version": "int8"},
            lambda gateway: gateway.documents.model("shirts", "int8"),
        ),
        (
            "ModelConfig",
            {"name": "shirts"},
            lambda gateway: {"config": gateway.documents.config("shirts", None)},
        ),
        (
            "ModelStatistics",
            {},
            lambda gateway: gateway.documents.statistics(None, None),
        ),
        (
            "ModelStatistics",
            {"name": "shirts", "version": "int8"},
            lambda gateway: gateway.documents.statistics("shirts", "int8"),
        ),
        (
            "RepositoryIndex",
            {},
            lambda gateway: {"models": gateway.documents.index(only_ready=False)},
        ),
    ],
)
async def test_documents_are_the_same_as_over_http(
    gateway: InProcess,
    channel: grpc.aio.Channel,
    rpc: str,
    fields: dict[str, str],
    document: Callable[[InProcess], Any],
) -> None:
    await call(channel, "ModelInfer", infer_request())
    response = await call(channel, rpc, getattr(pb, f"{rpc}Request")(**fields))
    assert contains(as_document(response), document(gateway))


def contains(actual: Any, document: Any) -> bool:
    """Return whether `actual` has all of the document; protobuf's JSON has int64 as strings."""
    if isinstance(document, dict):
        return all(contains(actual[name], value) for name, value in document.items())
    if isinstance(document, list):
        return len(actual) == len(document) and all(map(contains, actual, document))
    is_equal: bool = actual == document or actual == str(document)
    return is_equal


async def test_health_and_readiness(gateway: InProcess, channel: grpc.aio.Channel) -> None:
    assert (await call(channel, "ServerLive", pb.ServerLiveRequest())).live
    assert (await call(channel, "ServerReady", pb.ServerReadyRequest())).ready
    gateway.scheduler.set_slots("dense@1", 0)
    for version, is_ready in {"": True, "dense": False, "int8": True}.items():
        request = pb.ModelReadyRequest(name="shirts", version=version)
        assert (await call(channel, "ModelReady", request)).ready is is_ready
    index = await call(channel, "RepositoryIndex", pb.RepositoryIndexRequest())
    assert [(model.version, model.state) for model in index.models] == [
        ("dense", "UNAVAILABLE"),
        ("int8", "READY"),
    ]
    index = await call(channel, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    assert [model.version for model in index.models] == ["int8"]
    gateway.dataplane.readiness.is_draining = True
    assert not (await call(channel, "ServerReady", pb.ServerReadyRequest())).ready
    assert (await call(channel, "ServerLive", pb.ServerLiveRequest())).live


async def test_reflection_lists_and_describes_the_services(channel: grpc.aio.Channel) -> None:
    from grpc_reflection.v1alpha import reflection_pb2 as reflection

    service = "grpc.reflection.v1alpha.ServerReflection"
    method: Any = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        reflection.ServerReflectionRequest.SerializeToString,
        reflection.ServerReflectionResponse.FromString,
    )
    stream = method()
    await stream.write(reflection.ServerReflectionRequest(list_services=""))
    listed = (await stream.read()).list_services_response.service
    assert {each.name for each in listed} == {SERVICE, "grpc.health.v1.Health", service}
    for each in listed:
        await stream.write(reflection.ServerReflectionRequest(file_containing_symbol=each.name))
        assert (await stream.read()).file_descriptor_response.file_descriptor_proto
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF

    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        None,
        reflection.ServerReflectionResponse.FromString,
    )
    invalid = method()
    await invalid.write(b"\xff\xff")
    assert (await invalid.read()).error_response.error_message == "invalid argument"
    invalid.cancel()
