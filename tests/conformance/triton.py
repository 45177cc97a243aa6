"""One interface to the four clients of tritonclient, which are unmodified."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from tests.service import Pixels, RunningService
from tests.waiting import GIVE_UP_S

HTTP: Final = tritonclient.http
GRPC: Final = tritonclient.grpc

CLIENTS: Final[dict[str, tuple[ModuleType, ModuleType, dict[str, float]]]] = {
    "http": (HTTP, HTTP, {"network_timeout": GIVE_UP_S}),
    "http.aio": (HTTP, HTTP.aio, {"conn_timeout": GIVE_UP_S}),
    "grpc": (GRPC, GRPC, {}),
    "grpc.aio": (GRPC, GRPC.aio, {}),
}
"""The module of the tensors, the module of the client and its time limits, by name.

By default, the HTTP clients wait for 60 s, in which a busy machine may not load a variant.
"""


@dataclass(frozen=True)
class Answer:
    """A response, as a client has parsed it."""

    variant: str
    id: str | None
    logits: Pixels
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Client:
    """A connected client of tritonclient."""

    tensors: ModuleType
    raw: Any

    @property
    def is_grpc(self) -> bool:
        return self.tensors is GRPC

    def input(self, pixels: np.typing.NDArray[Any], datatype: str = "FP32", **options: bool) -> Any:
        """Return the tensor for a request; `binary_data` selects the format over HTTP."""
        tensor = self.tensors.InferInput("input", list(pixels.shape), datatype)
        tensor.set_data_from_numpy(pixels, **options)
        return tensor

    async def infer(self, model: str, tensor: Any, **options: Any) -> Answer:
        return self.answer(await self._result(self.raw.infer(model, [tensor], **options)))

    def answer(self, result: Any) -> Answer:
        """Return the fields of a result."""
        response = result.get_response(as_json=True) if self.is_grpc else result.get_response()
        parameters = response.get("parameters", {})
        if self.is_grpc:
            parameters = {name: _value(value) for name, value in parameters.items()}
        return Answer(
            response["model_version"], response.get("id"), result.as_numpy("logits"), parameters
        )

    async def call(self, method: str, *names: str, **options: Any) -> Any:
        """Call a method without tensors; return its result as plain data."""
        function: Callable[..., Any] = getattr(self.raw, method)
        has_json = "as_json" in inspect.signature(function).parameters
        return await self._result(
            function(*names, **options, **({"as_json": True} if has_json else {}))
        )

    async def _result(self, outcome: Any) -> Any:
        return await outcome if inspect.isawaitable(outcome) else outcome


@asynccontextmanager
async def connect(service: RunningService, name: str) -> AsyncIterator[Client]:
    """Connect the client of this name; close it at the end."""
    tensors, module, limits = CLIENTS[name]
    port = service.grpc_port if tensors is GRPC else service.port
    raw = module.InferenceServerClient(f"127.0.0.1:{port}", **limits)
    try:
        yield Client(tensors, raw)
    finally:
        closed = raw.close()
        if inspect.isawaitable(closed):
            await closed


def _value(parameter: dict[str, Any]) -> Any:
    """Return the value of a gRPC parameter; protobuf's JSON has int64 as strings."""
    ((kind, value),) = parameter.items()
    return int(value) if kind.startswith(("int", "uint")) else value
