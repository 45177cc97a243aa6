"""The bodies of requests and responses, one function for each protocol of the measured servers.

An exchange carries one sample of FP32 features and the logits of its classes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loadtests.client.binary import JSON_LENGTH_HEADER, build_request
from variants.catalog.catalog import Model

Features: TypeAlias = NDArray[np.float32]
Logits: TypeAlias = NDArray[np.float32]
Decode: TypeAlias = Callable[[bytes, Mapping[str, str]], Logits]
"""Returns the logits in the body of a response with these headers, whose names are lower-case.

May raise ValueError, KeyError, IndexError and TypeError if the response has another form.
"""

JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and how its response is read."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    decode: Decode | None
    """None for a server that computes nothing."""


def raw(path: str, features: Features) -> Exchange:
    """Send FP32 bytes and receive FP32 bytes."""
    headers = {"Content-Type": "application/octet-stream"}
    return Exchange(path, features.tobytes(), headers, lambda body, _: _floats(body))


def v2_binary(
    path: str, features: Features, model: Model, parameters: Mapping[str, Any] | None = None
) -> Exchange:
    """Send and receive a binary tensor of the V2 protocol."""
    name = model.inputs[0].name
    request = build_request({name: features[None]}, {name: "FP32"}, parameters)

    def decode(body: bytes, headers: Mapping[str, str]) -> Logits:
        return _floats(body[int(headers[JSON_LENGTH_HEADER.lower()]) :])

    return Exchange(path, request.body, request.headers, decode)


def v2_base64(path: str, features: Features, model: Model) -> Exchange:
    """Send FP32 bytes as one BYTES element in base64, in the JSON of V2, and receive JSON."""
    tensor = {
        "name": model.inputs[0].name,
        "datatype": "BYTES",
        "shape": [1],
        "data": [_base64(features)],
        "parameters": {"content_type": "base64"},
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    return Exchange(path, body, JSON, lambda body, _: _row(json.loads(body)["outputs"][0]["data"]))


def base64_json(path: str, document: Callable[[str], Any], features: Features) -> Exchange:
    """Send FP32 bytes in base64 in the JSON that `document` makes of them; receive JSON numbers."""
    body = json.dumps(document(_base64(features))).encode()
    return Exchange(path, body, JSON, lambda body, _: _row(json.loads(body)))


def unread(path: str, features: Features) -> Exchange:
    """Send FP32 bytes to a server that answers without reading them."""
    return Exchange(path, features.tobytes(), {}, None)


def _base64(features: Features) -> str:
    return base64.b64encode(features.tobytes()).decode()


def _row(numbers: Any) -> Logits:
    return np.asarray(numbers, np.float32).reshape(-1)


def _floats(body: bytes) -> Logits:
    return np.frombuffer(body, np.float32)
