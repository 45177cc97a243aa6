from __future__ import annotations

from typing import Any

import numpy as np

from loadtests.benchmarks.codec import measure, readers, writers
from serving.protocol.messages import InferRequest

TENSOR = np.arange(24, dtype=np.float32).reshape(3, 8)


def test_every_encoding_that_is_timed_reads_the_same() -> None:
    parts = readers({"input": TENSOR})
    for name, (size, part) in parts.items():
        assert size > TENSOR.nbytes
        read: Any = part()
        (found,) = read.inputs.values() if isinstance(read, InferRequest) else read
        np.testing.assert_array_equal(found, TENSOR, err_msg=name)


def test_every_encoding_that_is_timed_writes_the_values() -> None:
    for name, (size, part) in writers({"output": TENSOR}).items():
        written = part()
        assert isinstance(written, bytes)
        assert len(written) == size
        assert TENSOR.tobytes() in written or b"22.0,23.0]" in written.replace(b" ", b""), name


def test_a_case_is_timed_in_microseconds() -> None:
    calls = []
    cases = [("read", "it", 1, 1, lambda: calls.append(1))]
    (took_us,) = measure(cases, rounds=2, seconds=0.001)
    assert 0 < took_us < 1_000
    assert len(calls) >= 2
