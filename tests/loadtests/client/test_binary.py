from __future__ import annotations

import numpy as np
import pytest

from loadtests.client import binary
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.messages import InferResponse

METADATA = {
    "name": "shirts",
    "inputs": [
        {"name": "pixels", "datatype": "FP32", "shape": [-1, 4, 4]},
        {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "mask", "datatype": "BOOL", "shape": [-1, 3]},
    ],
}


def test_the_service_parses_a_built_request() -> None:
    inputs = binary.random_inputs(METADATA, np.random.default_rng(0), samples=2)
    datatypes = {spec["name"]: spec["datatype"] for spec in METADATA["inputs"]}  # type: ignore[index]
    sent = binary.build_request(inputs, datatypes, {"slo_latency_ms": 5})
    parsed = parse_request(sent.body, int(sent.headers[binary.JSON_LENGTH_HEADER]))
    assert {name: array.shape for name, array in parsed.inputs.items()} == {
        "pixels": (2, 4, 4),
        "tokens": (2, 1),
        "mask": (2, 3),
    }
    for name, array in inputs.items():
        np.testing.assert_array_equal(parsed.inputs[name], array)
        assert parsed.inputs[name].dtype == array.dtype
    assert parsed.binary_output
    assert parsed.parameters["slo_latency_ms"] == 5


def test_random_requests_differ_and_are_reproducible() -> None:
    bodies = [request.body for request in binary.random_requests(METADATA, 5)]
    assert len(set(bodies)) == 5
    assert bodies == [request.body for request in binary.random_requests(METADATA, 5)]


@pytest.mark.parametrize("is_binary", [True, False])
def test_the_explanation_has_the_variant_and_the_parameters(is_binary: bool) -> None:
    outputs = {"logits": np.ones((1, 3), np.float32)}
    response = InferResponse("shirts", "int8", outputs, None, {"deadline_met": True})
    body, length = render_response(response, {}, is_binary)
    explanation = binary.parse_explanation(body, None if length is None else str(length))
    assert explanation == {"variant": "int8", "deadline_met": True}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"parameters": {}}'])
def test_a_body_that_is_not_a_response_is_rejected(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a V2 inference response"):
        binary.parse_explanation(body, None)
