"""Requests to infer and what should come of them, for the tests of the HTTP side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from tests.serving.builders import answers, multiply, pixels

INFER = "/v2/models/shirts/infer"


def body(array: npt.NDArray[Any] | None = None, **document: Any) -> dict[str, Any]:
    """A request for these pixels, all JSON."""
    array = pixels() if array is None else array
    own = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }
    return {"inputs": [own], **document}


def outputs(answer: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    dtypes = {"FP32": np.float32, "INT64": np.int64}
    return {
        own["name"]: np.array(own["data"], dtypes[own["datatype"]]).reshape(own["shape"])
        for own in answer["outputs"]
    }


def assert_answers(response: httpx.Response, variant: str, array: npt.NDArray[Any]) -> None:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["model_name"] == "shirts"
    assert answer["model_version"] == answer["parameters"]["variant"] == variant
    expected = answers(variant, {"pixels": array})
    found = outputs(answer)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def assert_refuses(
    response: httpx.Response, status: int, message: str, request_id: str | None = None
) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    echoed = {} if request_id is None else {"id": request_id}
    assert response.json() == {"error": response.json()["error"], **echoed}
    assert message in response.json()["error"]
    assert "Traceback" not in response.text


class Gate:
    """A `run` that answers when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        self.entered.set()
        await self.open.wait()
        return await multiply(variant, requests)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
