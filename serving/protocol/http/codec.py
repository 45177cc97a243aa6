"""Parsing and rendering of HTTP bodies: V2 JSON and the binary tensor extension.

    body = JSON ‖ raw tensors in the order of the inputs, little-endian, row-major

The header Inference-Header-Content-Length gives the length of the JSON part. 0 means that the
whole body is the only input. Every malformed request raises an `InvalidRequest` that names the
field and states the rule.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from serving.errors import InvalidRequest, ServingError, shorten
from serving.protocol.extension import check_supported
from serving.protocol.http.json_tensor import from_json, to_json
from serving.protocol.messages import InferRequest, InferResponse
from serving.protocol.tensor import (
    BINARY_ONLY,
    Array,
    check_count,
    check_datatype,
    check_shape,
    from_raw,
    to_raw,
)
from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import DATATYPE, NUMPY

_LARGE_JSON_BYTES: Final = 2**16
"""From this size on, garbage collection is disabled while JSON is parsed. Parsing makes no garbage,
and scanning millions of new lists for it takes ten times as long as parsing them."""

_SCALARS: Final = frozenset({str, int, float, bool})


def parse_request(
    body: bytes, json_length: int | None, inputs: Sequence[TensorSpec] = ()
) -> InferRequest:
    """Parse a request. `json_length` is None if the whole body is JSON.

    If it is 0, the body is a raw request for a model with these `inputs`. Raises `InvalidRequest`,
    or `Unsupported` for an unsupported extension; both carry the id of the request.
    """
    if json_length is None:
        json_length = len(body)
    elif json_length == 0 and body:
        return parse_raw_request(body, inputs)
    elif not 0 < json_length <= len(body):
        raise InvalidRequest(
            f"the header Inference-Header-Content-Length is {json_length}, "
            f"but the body has {len(body)} bytes; it must be the length of the JSON part"
        )
    if json_length < _LARGE_JSON_BYTES or not gc.isenabled():
        return _parse(body, json_length)
    gc.disable()
    try:
        return _parse(body, json_length)
    except ServingError as error:
        # The traceback keeps those lists alive. It is dropped so that they are freed before the
        # collector could scan them.
        raise error.with_traceback(None) from None
    finally:
        gc.enable()


def _parse(body: bytes, json_length: int) -> InferRequest:
    view = memoryview(body)
    try:
        document = orjson.loads(view[:json_length])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None

    fields = _object(document, "the body")
    identifier = fields.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidRequest(f"id must be a string, got {shorten(identifier)}")
    try:
        return _parse_document(fields, identifier, _BinaryReader(view[json_length:]))
    except ServingError as error:
        error.request_id = identifier
        raise


def parse_raw_request(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Parse a body that holds one sample of the model's only input, without a JSON part.

    The size of a variable dimension follows from the length of the body. For BYTES the body is the
    only element, without its length prefix. All outputs are sent as binary.
    """
    if len(inputs) != 1:
        raise InvalidRequest(
            f"a raw request needs a model with one input, this one has {len(inputs)}; "
            "describe the tensors in a JSON part and send its length"
        )
    spec = inputs[0]
    where = f"input {spec.name!r}"
    sizes = spec.shape[1:]
    if sizes.count(-1) > 1:
        raise InvalidRequest(
            f"{where} has more than one variable dimension, so its shape does not follow from the "
            "length of a raw request; describe it in a JSON part and send its length"
        )
    fixed = math.prod(size for size in sizes if size != -1)
    if spec.datatype == "BYTES":
        if fixed != 1:
            raise InvalidRequest(
                f"{where} has {fixed} elements of BYTES, but a raw request holds one; "
                "describe the tensor in a JSON part and send its length"
            )
        array = np.array([body], NUMPY["BYTES"]).reshape((1,) * len(spec.shape))
    else:
        step = fixed * NUMPY[spec.datatype].itemsize
        variable = len(body) // max(1, step)
        shape = (1, *(variable if size == -1 else size for size in sizes))
        array = from_raw(spec.datatype, shape, body, f"the raw request for {where}")
    return InferRequest({spec.name: array}, binary_output=True)


def render_response(
    response: InferResponse, binary: Mapping[str, bool], default: bool
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON part if binary tensors follow.

    `binary` maps outputs to whether each is sent as binary; `default` applies to the others. FP16
    and BF16 are always sent as binary. Raises `InvalidRequest` if BYTES that are not UTF-8 would
    have to be sent as JSON.
    """
    outputs = []
    buffers: list[bytes | memoryview] = []
    for name, array in response.outputs.items():
        datatype = DATATYPE[array.dtype]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary.get(name, default) or datatype in BINARY_ONLY:
            buffers.append(to_raw(array))
            output["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            try:
                output["data"] = to_json(array, name)
            except InvalidRequest as error:
                error.request_id = response.id
                raise
        outputs.append(output)
    document: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id is not None:
        document["id"] = response.id
    document["parameters"] = response.parameters
    document["outputs"] = outputs
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not buffers:
        return head, None
    return b"".join((head, *buffers)), len(head)


class _BinaryReader:
    """Reads the raw tensors after the JSON part, one after the other."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def take(self, size: int, where: str) -> memoryview:
        if size > len(self._view) - self._position:
            left = len(self._view) - self._position
            raise InvalidRequest(
                f"{where}: binary_data_size is {size}, but only {left} bytes of the body remain"
            )
        self._position += size
        return self._view[self._position - size : self._position]

    def check_end(self) -> None:
        if self._position != len(self._view):
            left = len(self._view) - self._position
            raise InvalidRequest(f"{left} extra bytes follow the tensors that the inputs describe")


def _parse_document(
    fields: Mapping[str, Any], identifier: str | None, binary: _BinaryReader
) -> InferRequest:
    inputs = _list(fields.get("inputs"), "inputs")
    if not inputs:
        raise InvalidRequest("inputs must hold at least one tensor")
    requested = fields.get("outputs")
    requested = [] if requested is None else _list(requested, "outputs")
    check_count(len(inputs), len(requested))
    tensors: dict[str, Array] = {}
    for i, item in enumerate(inputs):
        tensor = _object(item, f"inputs[{i}]")
        name = _name(tensor, f"inputs[{i}]")
        if name in tensors:
            raise InvalidRequest(f"input names must be unique, {name!r:.100} occurs twice")
        tensors[name] = _parse_tensor(tensor, f"input {name!r:.100}", binary)
    binary.check_end()

    parameters = _parameters(fields, "parameters")
    binary_output = _flag(parameters, "binary_data_output", "parameters", default=False)
    outputs: dict[str, bool] = {}
    for i, item in enumerate(requested):
        output = _object(item, f"outputs[{i}]")
        name = _name(output, f"outputs[{i}]")
        if name in outputs:
            raise InvalidRequest(f"output names must be unique, {name!r:.100} occurs twice")
        where = f"outputs[{i}].parameters"
        output_parameters = _tensor_parameters(output, where)
        outputs[name] = _flag(output_parameters, "binary_data", where, binary_output)
    return InferRequest(tensors, identifier, parameters, outputs, binary_output)


def _parse_tensor(fields: Mapping[str, Any], where: str, binary: _BinaryReader) -> Array:
    shape = check_shape(_list(fields.get("shape"), f"{where}: shape"), where)
    datatype = check_datatype(fields.get("datatype"), where)
    size = _tensor_parameters(fields, f"{where}: parameters").get("binary_data_size")
    if size is None:
        return from_json(fields.get("data"), datatype, shape, where)
    if "data" in fields:
        raise InvalidRequest(f"{where}: send either data or binary_data_size, not both")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidRequest(
            f"{where}: binary_data_size must be an integer number of bytes, at least 0"
        )
    return from_raw(datatype, shape, binary.take(size, where), where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be a JSON object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{where} must be a list")
    return value


def _name(fields: Mapping[str, Any], where: str) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where} must have a name")
    return name


def _parameters(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = fields.get("parameters")
    parameters = {} if value is None else _object(value, where)
    for name, entry in parameters.items():
        if entry.__class__ not in _SCALARS:
            raise InvalidRequest(f"{where}: {name!r:.100} must be a string, a number or a boolean")
    return parameters


def _tensor_parameters(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = _parameters(fields, where)
    check_supported(parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}: {name} must be true or false, got {shorten(value)}")
    return value
