"""The form of a malformed request, and builders that start from a well-formed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest, ServingError

ID = "a1"
"""The id of the requests that the builders make."""


@dataclass(frozen=True)
class HttpRequest:
    """The body and the headers of a request; `json_length` is that of its JSON part."""

    body: bytes
    json_length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_headers(self) -> dict[str, str]:
        if self.json_length is None:
            return dict(self.headers)
        return {**self.headers, "inference-header-content-length": str(self.json_length)}


@dataclass(frozen=True)
class Malformed:
    """A malformed request and the error that it gets.

    `message` is a part of the error message, or all of it if the error is `Unsupported`. `http` and
    `grpc` are the request in the form of each transport, or None if the transport cannot express
    it. `grpc` is a `ModelInferRequest`, or bytes that are none. `id` is the id that the error has.
    """

    rule: str
    message: str
    http: HttpRequest | None = None
    grpc: Any = None
    error: type[ServingError] = InvalidRequest
    id: str | None = None


X: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32"}
"""An input that is well-formed except that it has no values."""

JSON_X: dict[str, Any] = {**X, "data": [1, 2]}

WELL_FORMED = orjson.dumps({"inputs": [JSON_X]})


def both(
    rule: str,
    message: str,
    *,
    inputs: Sequence[Mapping[str, Any]] = (X,),
    outputs: Sequence[Mapping[str, Any]] = (),
    error: type[ServingError] = InvalidRequest,
) -> Malformed:
    """Return a case of both transports. Its inputs have two values each."""
    document: dict[str, Any] = {"inputs": [{**tensor, "data": [1, 2]} for tensor in inputs]}
    if outputs:
        document["outputs"] = outputs
    raw = [bytes(8)] * len(inputs)
    return Malformed(
        rule,
        message,
        HttpRequest(orjson.dumps({"id": ID, **document})),
        infer_message(inputs, raw, outputs),
        error,
        ID,
    )


def http(rule: str, message: str, **document: Any) -> Malformed:
    """Return an HTTP case: a well-formed JSON request with these fields in place of its own."""
    whole = {"id": ID, "inputs": [JSON_X], **document}
    request_id = ID if whole["id"] == ID else None
    return Malformed(rule, message, HttpRequest(orjson.dumps(whole)), id=request_id)


def http_input(rule: str, message: str, **fields: Any) -> Malformed:
    """Return an HTTP case: a JSON request whose input has these fields in place of its own."""
    return http(rule, message, inputs=[{**JSON_X, **fields}])


def http_without(rule: str, message: str, name: str) -> Malformed:
    """Return an HTTP case: a JSON request whose input lacks the field `name`."""
    return http(rule, message, inputs=[{key: JSON_X[key] for key in JSON_X.keys() - {name}}])


def http_binary(rule: str, message: str, raw: bytes, size: Any = 8, **fields: Any) -> Malformed:
    """Return an HTTP case: a request with one binary input, followed by the bytes `raw`."""
    tensor = {**X, "parameters": {"binary_data_size": size}, **fields}
    head = orjson.dumps({"inputs": [tensor], "id": ID})
    return Malformed(rule, message, HttpRequest(head + raw, len(head)), id=ID)


def http_body(rule: str, message: str, body: bytes, json_length: int | None = None) -> Malformed:
    """Return an HTTP case: a request with this body."""
    return Malformed(rule, message, HttpRequest(body, json_length))


def http_header(rule: str, message: str, name: str, value: str, body: bytes = b"") -> Malformed:
    """Return an HTTP case: a request with a malformed header and a well-formed JSON body."""
    return Malformed(rule, message, HttpRequest(body or WELL_FORMED, headers={name: value}))


def grpc(
    rule: str,
    message: str,
    *,
    inputs: Sequence[Mapping[str, Any]] = (X,),
    raw: Sequence[bytes] = (bytes(8),),
    outputs: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> Malformed:
    """Return a gRPC case: a request with these inputs and raw contents, and other fields."""
    return Malformed(rule, message, grpc=infer_message(inputs, raw, outputs, **fields), id=ID)


def grpc_input(rule: str, message: str, **fields: Any) -> Malformed:
    """Return a gRPC case: a raw request whose input has these fields in place of its own."""
    return grpc(rule, message, inputs=[{**X, **fields}])


def grpc_typed(
    rule: str, message: str, datatype: str = "FP32", shape: Sequence[int] = (2,), **contents: Any
) -> Malformed:
    """Return a gRPC case: a request whose input has typed contents."""
    tensor = {
        "name": "x",
        "shape": shape,
        "datatype": datatype,
        "contents": pb.InferTensorContents(**contents),
    }
    return grpc(rule, message, inputs=[tensor], raw=[])


def infer_message(
    inputs: Sequence[Mapping[str, Any]],
    raw: Sequence[bytes],
    outputs: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> Any:
    """Return a `ModelInferRequest`; parameters may be plain values."""
    return pb.ModelInferRequest(
        model_name="shirts",
        id=ID,
        inputs=[pb.ModelInferRequest.InferInputTensor(**_typed(tensor)) for tensor in inputs],
        outputs=[
            pb.ModelInferRequest.InferRequestedOutputTensor(**_typed(output)) for output in outputs
        ],
        raw_input_contents=raw,
        **_typed(fields),
    )


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    parameters = fields.get("parameters", {})
    return {**fields, "parameters": {name: _parameter(parameters[name]) for name in parameters}}


def _parameter(value: Any) -> Any:
    """Return the parameter message of a value; None is a parameter without a value."""
    kinds = {str: "string_param", int: "int64_param"}
    return (
        pb.InferParameter() if value is None else pb.InferParameter(**{kinds[type(value)]: value})
    )
