"""The four clients of tritonclient, called in one way; what they do is theirs and unmodified."""

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

HTTP: Final = tritonclient.http
GRPC: Final = tritonclient.grpc

CLIENTS: Final[dict[str, tuple[ModuleType, ModuleType]]] = {
    "http": (HTTP, HTTP),
    "http.aio": (HTTP, HTTP.aio),
    "grpc": (GRPC, GRPC),
    "grpc.aio": (GRPC, GRPC.aio),
}
"""By name: where its tensors are, and where the client is."""


@dataclass(frozen=True)
class Answer:
    """What a client made of an answer."""

    variant: str
    id: str | None
    logits: Pixels
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Client:
    """One of tritonclient's clients, connected."""

    tensors: ModuleType
    raw: Any

    @property
    def is_grpc(self) -> bool:
        return self.tensors is GRPC

    def input(self, pixels: np.typing.NDArray[Any], datatype: str = "FP32", **how: bool) -> Any:
        """The tensor as the client sends it; `binary_data` says how, over HTTP."""
        tensor = self.tensors.InferInput("input", list(pixels.shape), datatype)
        tensor.set_data_from_numpy(pixels, **how)
        return tensor

    async def infer(self, model: str, tensor: Any, **options: Any) -> Answer:
        return self.answer(await self._done(self.raw.infer(model, [tensor], **options)))

    def answer(self, result: Any) -> Answer:
        """What a result of the client's holds."""
        said = result.get_response(as_json=True) if self.is_grpc else result.get_response()
        parameters = said.get("parameters", {})
        if self.is_grpc:
            parameters = {name: _only(value) for name, value in parameters.items()}
        return Answer(said["model_version"], said.get("id"), result.as_numpy("logits"), parameters)

    async def ask(self, method: str, *names: str) -> Any:
        """Call a method that is not about tensors; return what it returns, as plain data."""
        call: Callable[..., Any] = getattr(self.raw, method)
        has_json = "as_json" in inspect.signature(call).parameters
        return await self._done(call(*names, **({"as_json": True} if has_json else {})))

    async def _done(self, outcome: Any) -> Any:
        return await outcome if inspect.isawaitable(outcome) else outcome


@asynccontextmanager
async def connect(service: RunningService, name: str) -> AsyncIterator[Client]:
    """The client of this name, for as long as a `with`."""
    tensors, module = CLIENTS[name]
    port = service.grpc_port if tensors is GRPC else service.port
    raw = module.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        yield Client(tensors, raw)
    finally:
        closed = raw.close()
        if inspect.isawaitable(closed):
            await closed


def _only(value: dict[str, Any]) -> Any:
    """The one value of a gRPC parameter; protobuf's JSON has whole numbers as text."""
    ((kind, only),) = value.items()
    return int(only) if kind.startswith(("int", "uint")) else only
