"""What schemathesis must be told that no schema can say: parts of a request depend on each other.

Loaded by schemathesis, see schemathesis.toml beside this file. A request that it means to be wrong
is left so, but packed as its Content-Encoding says.
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
PACK: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body),
    "x-gzip": lambda body: gzip.compress(body),
    "deflate": lambda body: zlib.compress(body),
}


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Make the parts of a request to infer agree."""
    if case.media_type == JSON and _is_length(case, case.headers.get(JSON_LENGTH, "")):
        # With it the body would be refused for not being binary, whatever else is wrong with it.
        del case.headers[JSON_LENGTH]
    if not _is_right_inference(case):
        return
    if case.media_type == BINARY:
        head, _ = _framed(case, case.body)
        case.headers[JSON_LENGTH] = str(len(head))
    else:
        body: Any = case.body
        for tensor in body["inputs"]:
            _tie(tensor)
        if outputs := body.get("outputs"):
            body["outputs"] = list({output["name"]: output for output in outputs}.values())


@schemathesis.serializer(JSON, BINARY)
def serialize(context: SerializationContext, value: Any) -> bytes:
    """Write a body: not in `before_call`, where bytes would count as a fault in the body."""
    case = context.case
    if case.media_type == BINARY:
        body = b"".join(_framed(case, value)) if _is_right_inference(case) else _bytes(value)
    else:
        body = json.dumps(value, default=str).encode()
    pack = PACK.get(case.headers.get("Content-Encoding", ""))
    return pack(body) if pack else body


def _is_right_inference(case: Case[Any]) -> bool:
    is_inference = "inference" in (case.operation.tags or ())
    return is_inference and case.meta is not None and case.meta.generation.mode.is_positive


def _is_length(case: Case[Any], text: str) -> bool:
    """Return whether this is a length as the document wants it: not meant to be wrong."""
    parameters = case.operation.schema.raw_schema["components"]["parameters"]
    return text.isdecimal() and int(text) <= parameters[JSON_LENGTH]["schema"]["maximum"]


def _framed(case: Case[Any], noise: Any) -> tuple[bytes, bytes]:
    """Return a JSON part, or nothing for a raw request, and tensors with this noise for values."""
    content = case.operation.definition.raw["requestBody"]["content"]
    document = content[JSON]["examples"]["blank"]["value"]
    values = _bytes(noise)
    inputs, raw = [], b""
    for tensor in document["inputs"]:
        size = math.prod(tensor["shape"]) * NUMPY[tensor["datatype"]].itemsize
        raw += bytes(islice(cycle(values or b"\0"), size))
        described = {key: tensor[key] for key in ("name", "datatype", "shape")}
        inputs.append({**described, "parameters": {"binary_data_size": size}})
    if len(inputs) == 1 and len(values) % 2:
        return b"", raw
    return json.dumps({"inputs": inputs}).encode(), raw


def _bytes(drawn: Any) -> bytes:
    """Return the bytes that schemathesis drew: it has three ways to hold them."""
    return drawn.encode() if isinstance(drawn, str) else bytes(getattr(drawn, "data", drawn))


def _tie(tensor: dict[str, Any]) -> None:
    """Let the data be as many values as the shape says, or the shape say how many there are."""
    shape = [int(size) for size in tensor["shape"]]  # to a schema, 4.0 is a whole number
    data = tensor["data"]
    if data and isinstance(data[0], list):
        shape[0] = len(data)
    else:
        tensor["data"] = list(islice(cycle(data), math.prod(shape)))
    tensor["shape"] = shape
