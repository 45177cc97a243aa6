"""A child process that calls kserve's clients: it reads a call and writes its outcome per line.

It is a separate process because kserve's protobuf messages have the same names as tritonclient's.
A call is `{"client": "rest" | "grpc", "method": ..., ...}` in JSON. An outcome is
`{"returned": ...}`, `{"status": ..., "message": ...}`, or `{"raised": ...}` for other exceptions.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (  # type: ignore[import-not-found] # installed in a separate environment
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import (  # type: ignore[import-not-found]
    InferParameter,
    RequestedOutput,
)


def request_of(call: dict[str, Any]) -> Any:
    tensor = InferInput(call["input"], call["shape"], call["datatype"])
    pixels = np.array(call["data"], call["dtype"]).reshape(call["shape"])
    tensor.set_data_from_numpy(pixels, binary_data=call["is_binary_in"])
    options = {"binary_data": call["is_binary_out"]} if call["client"] == "rest" else None
    return InferRequest(
        call["model"],
        [tensor],
        request_id=call["id"],
        parameters=call["parameters"],
        request_outputs=[RequestedOutput(call["output"], parameters=options)],
        model_version=call["version"],
    )


def response_fields(response: Any) -> dict[str, Any]:
    parameters = {name: _value(each) for name, each in response.parameters.items()}
    (output,) = response.outputs
    return {
        "id": response.id,
        "version": response.model_version,
        "parameters": parameters,
        "shape": output.shape,
        "logits": output.as_numpy().reshape(-1).tolist(),
    }


def _value(parameter: Any) -> Any:
    """Return the value of a parameter, or None if it has a type that kserve does not know."""
    if not isinstance(parameter, InferParameter):
        return parameter
    kind = parameter.WhichOneof("parameter_choice")
    return kind and getattr(parameter, kind)


async def outcome(rest: Any, rpc: Any, url: str, call: dict[str, Any]) -> Any:
    is_rest = call["client"] == "rest"
    client = rest if is_rest else rpc
    arguments = (url,) if is_rest else ()
    if call["method"] != "infer":
        return await getattr(client, call["method"])(*arguments, *call["names"])
    headers = call["headers"] if is_rest else tuple(call["headers"].items())
    named = {"model_name": call["model"]} if is_rest else {}
    return response_fields(
        await client.infer(*arguments, request_of(call), headers=headers, **named)
    )


async def main(url: str, address: str) -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    rpc = InferenceGRPCClient(address)
    for line in sys.stdin:
        try:
            line_out = {"returned": await outcome(rest, rpc, url, json.loads(line))}
        except httpx.HTTPStatusError as error:
            line_out = {"status": error.response.status_code, "message": str(error)}
        except grpc.RpcError as error:
            line_out = {"status": error.code().name, "message": error.details()}
        except Exception as error:  # the client cannot parse the response
            line_out = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(line_out), flush=True)
    await rest.close()
    await rpc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
