"""kserve's two clients as a child process: one call per line of JSON in, its outcome per line out.

They need a process of their own: their protobuf messages have the names of tritonclient's.
A call is `{"client": "rest" | "grpc", "method": ..., ...}`, an outcome `{"returned": ...}`,
`{"status": ..., "message": ...}`, or `{"raised": ...}` for any other error of the client's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (  # type: ignore[import-not-found] # it is in no environment but its own
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
    how = {"binary_data": call["is_binary_out"]} if call["client"] == "rest" else None
    return InferRequest(
        call["model"],
        [tensor],
        request_id=call["id"],
        parameters=call["parameters"],
        request_outputs=[RequestedOutput(call["output"], parameters=how)],
        model_version=call["version"],
    )


def told(answer: Any) -> dict[str, Any]:
    parameters = {name: _only(value) for name, value in answer.parameters.items()}
    (output,) = answer.outputs
    return {
        "id": answer.id,
        "version": answer.model_version,
        "parameters": parameters,
        "shape": output.shape,
        "logits": output.as_numpy().reshape(-1).tolist(),
    }


def _only(value: Any) -> Any:
    """The value of a parameter: over gRPC in a message, which may be of a kind kserve lacks."""
    if not isinstance(value, InferParameter):
        return value
    kind = value.WhichOneof("parameter_choice")
    return kind and getattr(value, kind)


async def outcome(rest: Any, rpc: Any, url: str, call: dict[str, Any]) -> Any:
    is_rest = call["client"] == "rest"
    client = rest if is_rest else rpc
    where = (url,) if is_rest else ()
    if call["method"] != "infer":
        return await getattr(client, call["method"])(*where, *call["names"])
    headers = call["headers"] if is_rest else tuple(call["headers"].items())
    named = {"model_name": call["model"]} if is_rest else {}
    return told(await client.infer(*where, request_of(call), headers=headers, **named))


async def main(url: str, address: str) -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    rpc = InferenceGRPCClient(address)
    for line in sys.stdin:
        try:
            said = {"returned": await outcome(rest, rpc, url, json.loads(line))}
        except httpx.HTTPStatusError as error:
            said = {"status": error.response.status_code, "message": str(error)}
        except grpc.RpcError as error:
            said = {"status": error.code().name, "message": error.details()}
        except Exception as error:  # the client could make nothing of the answer
            said = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)
    await rest.close()
    await rpc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
