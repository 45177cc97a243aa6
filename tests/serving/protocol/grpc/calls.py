"""A gateway that answers over gRPC, requests to it, and what should come of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.grpc.listener import GrpcListener
from serving.protocol.grpc.service import SERVICE, GrpcProtocol
from tests.serving.builders import InProcess, answers, pixels

LOOPBACK = "127.0.0.1"
LIMIT = 1_000_000
HANG_S = 30.0
"""Nothing here takes so long, unless it hangs."""


def protocol(gateway: InProcess, *, max_stream_requests: int = 64) -> GrpcProtocol:
    return GrpcProtocol(
        gateway.dataplane,
        gateway.inference,
        gateway.documents,
        max_stream_requests=max_stream_requests,
    )


@asynccontextmanager
async def listening(
    own: GrpcProtocol, port: int = 0, *, max_message_bytes: int = LIMIT
) -> AsyncIterator[GrpcListener]:
    listener = GrpcListener(own, LOOPBACK, port, max_message_bytes=max_message_bytes)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def serving(gateway: InProcess, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server for this gateway."""
    async with (
        listening(protocol(gateway, **settings)) as listener,
        channel(listener.port) as own,
    ):
        yield own


def channel(port: int, *options: tuple[str, Any]) -> grpc.aio.Channel:
    # Each has connections of its own: grpc would share them within a process.
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *options)
    return grpc.aio.insecure_channel(f"{LOOPBACK}:{port}", options=own)


async def call(own: grpc.aio.Channel, rpc: str, message: Any, **settings: Any) -> Any:
    """Call an RPC of the inference service with a message, or with the bytes of one."""
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    reply: Any = pb.ModelInferResponse if rpc == "ModelInfer" else getattr(pb, f"{rpc}Response")
    method: Any = own.unary_unary(f"/{SERVICE}/{rpc}", response_deserializer=reply.FromString)
    return await method(raw, timeout=settings.pop("timeout", HANG_S), **settings)


async def refused(own: grpc.aio.Channel, rpc: str, message: Any, **settings: Any) -> Any:
    """Call an RPC that fails; return the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(own, rpc, message, **settings)
    assert "Traceback" not in (caught.value.details() or "")
    return caught.value


def infer_request(array: npt.NDArray[Any] | None = None, **fields: Any) -> Any:
    """A request for these pixels, with raw contents."""
    array = pixels() if array is None else array
    message = pb.ModelInferRequest(**{"model_name": "shirts", **fields})
    message.inputs.add(name="pixels", datatype="FP32", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    return message


def with_parameters(message: Any, **parameters: Any) -> Any:
    """The message with these parameters beside those it has."""
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(message.parameters[name], fields[type(value)], value)
    return message


def value(parameter: Any) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


def outputs(answer: Any) -> dict[str, npt.NDArray[Any]]:
    dtypes = {"FP32": np.float32, "INT64": np.int64}
    return {
        own.name: np.frombuffer(raw, dtypes[own.datatype]).reshape(own.shape)
        for own, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def assert_answers(answer: Any, variant: str, array: npt.NDArray[Any]) -> None:
    assert answer.model_name == "shirts"
    assert answer.model_version == answer.parameters["variant"].string_param == variant
    expected = answers(variant, {"pixels": array})
    found = outputs(answer)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
