"""A gateway that listens for gRPC, calls to it, and checks of their responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.call import SERVICE
from serving.protocol.grpc.listener import GrpcListener
from serving.protocol.grpc.service import GrpcProtocol
from tests.serving.builders import InProcess, answers, pixels

LOOPBACK = "127.0.0.1"
LIMIT = 1_000_000
HANG_S = 30.0
"""Seconds after which a test that hangs fails."""

HEALTH_POLL_INTERVAL_S = 0.02


def protocol(
    gateway: InProcess, *, max_stream_requests: int = 64, front_door: FrontDoor | None = None
) -> GrpcProtocol:
    return GrpcProtocol(
        gateway.dataplane,
        gateway.inference,
        gateway.documents,
        front_door=front_door,
        control=gateway.control,
        max_stream_requests=max_stream_requests,
        health_poll_interval_s=HEALTH_POLL_INTERVAL_S,
    )


@asynccontextmanager
async def listening(
    protocol: GrpcProtocol,
    port: int = 0,
    *,
    max_message_bytes: int = LIMIT,
) -> AsyncIterator[GrpcListener]:
    listener = GrpcListener(
        protocol,
        LOOPBACK,
        port,
        max_message_bytes=max_message_bytes,
        close_delay_s=0.0,
    )
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def serving(gateway: InProcess, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to a server of this gateway."""
    async with (
        listening(protocol(gateway, **settings)) as listener,
        open_channel(listener.port) as channel,
    ):
        yield channel


def open_channel(port: int, *options: tuple[str, Any]) -> grpc.aio.Channel:
    # Without the first option, the channels of a process would share connections.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *options)
    return grpc.aio.insecure_channel(f"{LOOPBACK}:{port}", options=options)


async def call(channel: grpc.aio.Channel, rpc: str, message: Any, **settings: Any) -> Any:
    """Call an RPC of the inference service with a message, or with the bytes of one."""
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    response: Any = pb.ModelInferResponse if rpc == "ModelInfer" else getattr(pb, f"{rpc}Response")
    method: Any = channel.unary_unary(
        f"/{SERVICE}/{rpc}", response_deserializer=response.FromString
    )
    return await method(raw, timeout=settings.pop("timeout", HANG_S), **settings)


async def call_error(channel: grpc.aio.Channel, rpc: str, message: Any, **settings: Any) -> Any:
    """Call an RPC that fails; return the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, rpc, message, **settings)
    assert "Traceback" not in (caught.value.details() or "")
    return caught.value


def infer_request(array: npt.NDArray[Any] | None = None, **fields: Any) -> Any:
    """Return a request with these pixels as raw contents."""
    array = pixels() if array is None else array
    message = pb.ModelInferRequest(**{"model_name": "shirts", **fields})
    message.inputs.add(name="pixels", datatype="FP32", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    return message


def with_parameters(message: Any, **parameters: Any) -> Any:
    """Add parameters to the message and return it."""
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(message.parameters[name], fields[type(value)], value)
    return message


def value(parameter: Any) -> Any:
    """Return the value of a parameter message."""
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


def outputs(response: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a response by name."""
    dtypes = {"FP32": np.float32, "INT64": np.int64}
    return {
        output.name: np.frombuffer(raw, dtypes[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def assert_answers(response: Any, variant: str, array: npt.NDArray[Any]) -> None:
    """Fail unless the response has the outputs of the variant for these pixels."""
    assert response.model_name == "shirts"
    assert response.model_version == response.parameters["variant"].string_param == variant
    expected = answers(variant, {"pixels": array})
    actual = outputs(response)
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])
