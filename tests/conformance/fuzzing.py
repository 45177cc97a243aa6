"""Hooks of schemathesis for dependencies between parts of a request, which no schema can express.

schemathesis.toml names this file. Requests that are invalid on purpose stay unchanged, except that
their body is compressed according to their Content-Encoding.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any, Final

import schemathesis
from schemathesis import Case, HookContext, SerializationContext

from variants.catalog.datatype import NUMPY

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
JSON_LENGTH: Final = "Inference-Header-Content-Length"
COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body),
    "x-gzip": lambda body: gzip.compress(body),
    "deflate": lambda body: zlib.compress(body),
}


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Make the parts of an inference request consistent."""
    if case.media_type == JSON and _is_valid_length(case, case.headers.get(JSON_LENGTH, "")):
        # With the header, any JSON body would be rejected because it is not binary.
        del case.headers[JSON_LENGTH]
    if not _is_valid_inference(case):
        return
    if case.media_type == BINARY:
        head, _ = _binary_request(case, case.body)
        case.headers[JSON_LENGTH] = str(len(head))
    else:
        body: Any = case.body
        for tensor in body["inputs"]:
            _make_consistent(tensor)
        if outputs := body.get("outputs"):
            body["outputs"] = list({output["name"]: output for output in outputs}.values())


@schemathesis.serializer(JSON, BINARY)
def serialize(context: SerializationContext, value: Any) -> bytes:
    """Serialize a body. In `before_call`, bytes would count as an invalid body."""
    case = context.case
    if case.media_type == BINARY:
        body = (
            b"".join(_binary_request(case, value)) if _is_valid_inference(case) else _bytes(value)
        )
    else:
        body = json.dumps(value, default=str).encode()
    compress = COMPRESS.get(case.headers.get("Content-Encoding", ""))
    return compress(body) if compress else body


def _is_valid_inference(case: Case[Any]) -> bool:
    is_inference = "inference" in (case.operation.tags or ())
    return is_inference and case.meta is not None and case.meta.generation.mode.is_positive


def _is_valid_length(case: Case[Any], text: str) -> bool:
    """Return whether the document allows this length, so that it is not invalid on purpose."""
    parameters = case.operation.schema.raw_schema["components"]["parameters"]
    return text.isdecimal() and int(text) <= parameters[JSON_LENGTH]["schema"]["maximum"]


def _binary_request(case: Case[Any], noise: Any) -> tuple[bytes, bytes]:
    """Return a JSON part, which is empty for a raw request, and tensors filled with this noise."""
    content = case.operation.definition.raw["requestBody"]["content"]
    document = content[JSON]["examples"]["sample"]["value"]
    values = _bytes(noise)
    inputs, raw = [], b""
    for tensor in document["inputs"]:
        size = math.prod(tensor["shape"]) * NUMPY[tensor["datatype"]].itemsize
        raw += bytes(islice(cycle(values or b"\0"), size))
        fields = {key: tensor[key] for key in ("name", "datatype", "shape")}
        inputs.append({**fields, "parameters": {"binary_data_size": size}})
    if len(inputs) == 1 and len(values) % 2:
        return b"", raw
    return json.dumps({"inputs": inputs}).encode(), raw


def _bytes(generated: Any) -> bytes:
    """Return the bytes that schemathesis generated, which have one of three types."""
    if isinstance(generated, str):
        return generated.encode()
    return bytes(getattr(generated, "data", generated))


def _make_consistent(tensor: dict[str, Any]) -> None:
    """Make the number of values match the shape, or the shape match the number of rows."""
    shape = [int(size) for size in tensor["shape"]]  # in a JSON Schema, 4.0 is an integer
    data = tensor["data"]
    if data and isinstance(data[0], list):
        shape[0] = len(data)
    else:
        tensor["data"] = list(islice(cycle(data), math.prod(shape)))
    tensor["shape"] = shape
