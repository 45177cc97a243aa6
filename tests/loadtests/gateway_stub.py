"""The responses of a gateway with two variants, for `tests.loadtests.server.tiny_server`."""

from __future__ import annotations

import json

from tests.loadtests.server import ok

METADATA = {
    "name": "shirts",
    "versions": ["dense", "int8"],
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
}
ACCURACIES = {"dense": 0.9, "int8": 0.85}
RESPONSE = ok(b'{"model_version": "int8", "parameters": {"accuracy": 0.85, "batch_size": 1}}')
"""Response to inference requests that are routed."""


def respond(number: int, head: bytes) -> bytes:
    """Respond like a gateway whose int8 variant is four times as fast as its dense variant."""
    path = head.split()[1].decode()
    if path == "/v2/health/ready":
        return ok(b'{"ready": true}')
    if path == "/v2/models":
        return ok(b'{"models": ["shirts"]}')
    if path == "/v2/models/shirts":
        return ok(json.dumps(METADATA).encode())
    if path == "/v2/models/shirts/infer":
        return RESPONSE
    if path.startswith("/v2/models/shirts/versions/"):
        variant = path.split("/")[5]
        parameters = {
            "accuracy": ACCURACIES[variant],
            "latency_ms": 4 if variant == "dense" else 1,
        }
        return ok(json.dumps({"model_version": variant, "parameters": parameters}).encode())
    return ok(b'{"error": "there is no such model"}', 404)
