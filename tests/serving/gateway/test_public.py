from __future__ import annotations

import pytest

from serving.gateway.public import public


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ValueError: model.onnx is damaged", "ValueError: model.onnx is damaged"),
        ("/srv/catalog/int8/model.onnx: damaged", "model.onnx: damaged"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/my models/a b/model.onnx'",
            "FileNotFoundError: [Errno 2] No such file or directory: 'model.onnx'",
        ),
        ("cannot read (/srv/a/b.json), nor /srv/c.", "cannot read (b.json), nor c."),
        ("a host failed to warm up: tcp://127.0.0.1:4711", "a host failed to warm up: (address)"),
        ("no answer of 10.0.0.7:6379 [Errno 111]", "no answer of (address) [Errno 111]"),
        ("s3://bucket/ab/abcd does not exist", "abcd does not exist"),
        ("file:///srv/bucket/ab/abcd is damaged", "abcd is damaged"),
        ("batches/s of int8 at 3/4 and/or model/fc.weight", None),
    ],
)
def test_only_the_last_component_of_a_path_remains_and_no_address(
    error: str, expected: str | None
) -> None:
    assert public(error) == (error if expected is None else expected)
