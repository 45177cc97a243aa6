from __future__ import annotations

from typing import Any

import numpy as np

from loadtests.benchmarks.codec import Case, measure, request_parsers, response_renderers
from serving.protocol.messages import InferRequest

TENSOR = np.arange(24, dtype=np.float32).reshape(3, 8)


def test_every_timed_encoding_parses_to_the_same_tensor() -> None:
    for name, encoding in request_parsers({"input": TENSOR}).items():
        assert encoding.message_bytes > TENSOR.nbytes
        request: Any = encoding.call()
        (tensor,) = request.inputs.values() if isinstance(request, InferRequest) else request
        np.testing.assert_array_equal(tensor, TENSOR, err_msg=name)


def test_every_timed_encoding_renders_the_values() -> None:
    for name, encoding in response_renderers({"output": TENSOR}).items():
        rendered = encoding.call()
        assert isinstance(rendered, bytes)
        assert len(rendered) == encoding.message_bytes
        assert TENSOR.tobytes() in rendered or b"22.0,23.0]" in rendered.replace(b" ", b""), name


def test_a_case_is_timed_in_microseconds() -> None:
    calls = []
    case = Case("parse request", "HTTP, JSON", 1, 1, lambda: calls.append(1))
    (time_us,) = measure([case], rounds=2, seconds=0.001)
    assert time_us > 0
    assert len(calls) >= 2
