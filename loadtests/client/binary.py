"""V2 requests with binary tensors, built from a model's metadata, and the parameters of responses.

metadata ─▶ random tensors ─▶ body + headers ─▶ service ─▶ response ─▶ its parameters
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
    """The body of a request and the headers that the body requires."""

    body: bytes
    headers: Mapping[str, str]


def random_inputs(
    metadata: Mapping[str, Any], rng: np.random.Generator, samples: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """Return random inputs for a model with this V2 metadata; a variable dimension becomes 1.

    Floats are uniform in [0, 1). Integers are 0 or 1, which are valid indices of any table.
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
    """Build a request that sends all inputs and asks for all outputs as binary tensors."""
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
    headers = {JSON_LENGTH_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
    return BinaryRequest(body, headers)


def random_requests(
    metadata: Mapping[str, Any],
    count: int,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Sequence[BinaryRequest]:
    """Return `count` different requests of one sample each."""
    rng = np.random.default_rng(seed)
    datatypes = {spec["name"]: spec["datatype"] for spec in metadata["inputs"]}
    return [
        build_request(random_inputs(metadata, rng), datatypes, parameters) for _ in range(count)
    ]


def parse_explanation(body: bytes, json_length: str | None) -> Mapping[str, Any]:
    """Return the parameters of a response and its model version as `variant`.

    `json_length` is the value of the response header `JSON_LENGTH_HEADER`; None if it has none.

    Raises ValueError if the body is not a V2 inference response.
    """
    try:
        document = orjson.loads(memoryview(body)[: int(json_length) if json_length else len(body)])
        parameters = document["parameters"]
        return {"variant": document["model_version"], **parameters}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a V2 inference response: {body[:100]!r}") from error
