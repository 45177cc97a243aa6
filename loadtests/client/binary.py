"""V2 requests with binary tensors for any model, made from its metadata, and what answers tell.

metadata ─▶ random tensors ─▶ body + headers ─▶ service ─▶ answer ─▶ explanation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from variants.catalog.datatype import NUMPY

JSON_LENGTH_HEADER: Final = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """The body of one request, and the headers that it cannot do without."""

    body: bytes
    headers: Mapping[str, str]


def random_inputs(
    metadata: Mapping[str, Any], rng: np.random.Generator, samples: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """Return inputs that a model of this V2 metadata takes; a variable dimension becomes 1.

    Floats are uniform in [0, 1); whole numbers are 0 or 1, which is an index into anything.
    """
    inputs = {}
    for spec in metadata["inputs"]:
        shape = (samples, *(abs(dimension) for dimension in spec["shape"][1:]))
        dtype = NUMPY[spec["datatype"]]
        values = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        inputs[spec["name"]] = values.astype(dtype)
    return inputs


def build_request(
    inputs: Mapping[str, npt.NDArray[Any]],
    datatypes: Mapping[str, str],
    parameters: Mapping[str, Any] | None = None,
) -> BinaryRequest:
    """Write a request that sends all inputs and wants all outputs as binary tensors."""
    tensors = [
        {
            "name": name,
            "datatype": datatypes[name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    document = {"parameters": {"binary_data_output": True, **(parameters or {})}, "inputs": tensors}
    head = orjson.dumps(document)
    body = b"".join((head, *(array.tobytes() for array in inputs.values())))
    return BinaryRequest(
        body, {JSON_LENGTH_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
    )


def random_requests(
    metadata: Mapping[str, Any],
    count: int,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Sequence[BinaryRequest]:
    """Return so many different requests of one sample each."""
    rng = np.random.default_rng(seed)
    datatypes = {spec["name"]: spec["datatype"] for spec in metadata["inputs"]}
    return [
        build_request(random_inputs(metadata, rng), datatypes, parameters) for _ in range(count)
    ]


def parse_explanation(body: bytes, json_length: str | None) -> Mapping[str, Any]:
    """Return why an answer is what it is: its parameters.

    `json_length` is its header of that name. Raises `ValueError` if the body is no V2 answer.
    """
    try:
        document = orjson.loads(memoryview(body)[: int(json_length) if json_length else len(body)])
        parameters = document["parameters"]
        return {"variant": document["model_version"], **parameters}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no answer of the protocol: {body[:100]!r}") from error
