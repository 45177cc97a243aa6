"""tritonclient's asynchronous clients with one interface, for the model of `two_inputs`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http

from serving.gateway.gateway import Gateway
from tests.serving.gateway.two_inputs import Arrays

DATATYPES = {"tokens": "INT64", "scale": "FP32"}
OUTPUTS = ("sums", "each")


class Client:
    """A client of tritonclient, for HTTP or gRPC."""

    def __init__(self, transport: str, gateway: Gateway) -> None:
        self.is_grpc = transport == "grpc"
        port = gateway.grpc_port if self.is_grpc else gateway.http_port
        self._module = triton_grpc if self.is_grpc else triton_http
        self.triton = self._module.InferenceServerClient(f"127.0.0.1:{port}")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.triton.close()

    async def infer(
        self, arrays: Arrays, variant: str = "", outputs: tuple[str, ...] = OUTPUTS
    ) -> Arrays:
        """Return the requested outputs; raise the exceptions of tritonclient."""
        return (await self.explained(arrays, variant, outputs))[0]

    async def explained(
        self, arrays: Arrays, variant: str = "", outputs: tuple[str, ...] = OUTPUTS
    ) -> tuple[Arrays, dict[str, Any]]:
        """Return the requested outputs and the parameters of the answer."""
        tensors = []
        for name, array in arrays.items():
            tensors.append(self._module.InferInput(name, list(array.shape), DATATYPES[name]))
            tensors[-1].set_data_from_numpy(array)
        requested = [self._module.InferRequestedOutput(name) for name in outputs]
        result = await self.triton.infer("words", tensors, model_version=variant, outputs=requested)
        response = result.get_response()
        return {name: result.as_numpy(name) for name in outputs}, (
            {name: _value(each) for name, each in response.parameters.items()}
            if self.is_grpc
            else response["parameters"]
        )


def _value(parameter: Any) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


def assert_close(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-5)
