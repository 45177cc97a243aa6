"""Inference requests over HTTP, checks of their responses, and a `run` that waits."""

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
    """Return a JSON request with these pixels; `document` adds or replaces fields."""
    array = pixels() if array is None else array
    tensor = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }
    return {"inputs": [tensor], **document}


def outputs(response: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a JSON response by name."""
    dtypes = {"FP32": np.float32, "INT64": np.int64}
    return {
        output["name"]: np.array(output["data"], dtypes[output["datatype"]]).reshape(
            output["shape"]
        )
        for output in response["outputs"]
    }


def assert_answers(response: httpx.Response, variant: str, array: npt.NDArray[Any]) -> None:
    """Fail unless the response has the outputs of the variant for these pixels."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["model_name"] == "shirts"
    assert document["model_version"] == document["parameters"]["variant"] == variant
    expected = answers(variant, {"pixels": array})
    actual = outputs(document)
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


def assert_error(
    response: httpx.Response, status: int, message: str, request_id: str | None = None
) -> None:
    """Fail unless the response has this status, and an error body with this part of a message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    request_ids = {} if request_id is None else {"id": request_id}
    assert response.json() == {"error": response.json()["error"], **request_ids}
    assert message in response.json()["error"]
    assert "Traceback" not in response.text


class Gate:
    """A `run` that waits until `open` is set; it sets `entered` when it starts to wait."""

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
    """Return a body that httpx streams in these chunks."""
    for part in parts:
        yield part
