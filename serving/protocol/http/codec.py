"""Bytes to messages and back: V2 JSON, and the binary tensor extension.

    body = JSON ‖ raw tensors in the order of the inputs, little-endian, row-major;
    the header Inference-Header-Content-Length gives the length of the JSON part; 0 says that
    the whole body is the one input.

Every fault in a request is an `InvalidRequest` that names the place and what would be right.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from serving.errors import InvalidRequest, ServingError, shorten
from serving.protocol.extension import check_offered
from serving.protocol.json_tensor import BINARY_ONLY, from_json, to_json
from serving.protocol.messages import InferRequest, InferResponse
from serving.protocol.tensor import (
    Array,
    check_count,
    check_datatype,
    check_shape,
    from_raw,
    to_raw,
)
from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import DATATYPE, NUMPY

_LARGE_BYTES: Final = 2**16
"""Of JSON: from here on no garbage is collected while it is read. There is none, and to look for it
in millions of new lists takes ten times as long as to read them."""

_SCALARS: Final = frozenset({str, int, float, bool})


def parse_request(
    body: bytes, json_length: int | None, inputs: Sequence[TensorSpec] = ()
) -> InferRequest:
    """Read one request; `json_length` is None where the whole body is JSON.

    If it is 0 the body is a raw request, of a model with these `inputs`. Raises `InvalidRequest`,
    or `Unsupported` for an extension that is not offered; both carry the request's id.
    """
    if json_length is None:
        json_length = len(body)
    elif json_length == 0 and body:
        return parse_raw_request(body, inputs)
    elif not 0 < json_length <= len(body):
        raise InvalidRequest(
            f"the header Inference-Header-Content-Length says {json_length}, "
            f"but the body has {len(body)} bytes; it must be the length of the JSON part"
        )
    if json_length < _LARGE_BYTES or not gc.isenabled():
        return _parse(body, json_length)
    gc.disable()
    try:
        return _parse(body, json_length)
    except ServingError as error:
        # Its frames have those lists, which are to go before they are looked through.
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
        return _request(fields, identifier, _Binary(view[json_length:]))
    except ServingError as error:
        error.request_id = identifier
        raise


def parse_raw_request(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Read a body that is nothing but the one input of the model, for a single sample.

    What size a variable dimension has follows from the length. For BYTES the body is the one
    element, without its length before it. All outputs are to be sent as binary.
    """
    if len(inputs) != 1:
        raise InvalidRequest(
            f"a raw request is for a model with one input, this one takes {len(inputs)}; "
            "describe the tensors in a JSON part and give its length"
        )
    spec = inputs[0]
    where = f"input {spec.name!r}"
    sizes = spec.shape[1:]
    if sizes.count(-1) > 1:
        raise InvalidRequest(
            f"{where} has more than one variable dimension, so a raw request cannot tell its "
            "shape; describe it in a JSON part and give its length"
        )
    fixed = math.prod(size for size in sizes if size != -1)
    if spec.datatype == "BYTES":
        if fixed != 1:
            raise InvalidRequest(
                f"{where} has {fixed} elements of BYTES, a raw request is a single one; "
                "describe the tensor in a JSON part and give its length"
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
    """Write one answer: the body, and the length of its JSON part where binary tensors follow.

    `binary` says per output whether it goes as binary; an output it does not name goes as
    `default` says. FP16 and BF16 always go as binary, which JSON cannot say. Raises
    `InvalidRequest` if BYTES that are no UTF-8 would have to go as JSON.
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


class _Binary:
    """The raw tensors behind the JSON part, taken one after the other."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, size: int, where: str) -> memoryview:
        if size > len(self._view) - self._at:
            left = len(self._view) - self._at
            raise InvalidRequest(
                f"{where}: binary_data_size is {size}, but only {left} bytes of the body are left"
            )
        self._at += size
        return self._view[self._at - size : self._at]

    def must_be_used_up(self) -> None:
        if self._at != len(self._view):
            left = len(self._view) - self._at
            raise InvalidRequest(f"{left} bytes follow the tensors that the inputs describe")


def _request(fields: Mapping[str, Any], identifier: str | None, binary: _Binary) -> InferRequest:
    inputs = _list(fields.get("inputs"), "inputs")
    if not inputs:
        raise InvalidRequest("inputs must hold at least one tensor")
    asked = fields.get("outputs")
    asked = [] if asked is None else _list(asked, "outputs")
    check_count(len(inputs), len(asked))
    tensors: dict[str, Array] = {}
    for i, item in enumerate(inputs):
        tensor = _object(item, f"inputs[{i}]")
        name = _name(tensor, f"inputs[{i}]")
        if name in tensors:
            raise InvalidRequest(f"input names must be unique, got {name!r:.100} twice")
        tensors[name] = _array(tensor, f"input {name!r:.100}", binary)
    binary.must_be_used_up()

    parameters = _parameters(fields, "parameters")
    binary_output = _flag(parameters, "binary_data_output", "parameters", default=False)
    outputs: dict[str, bool] = {}
    for i, item in enumerate(asked):
        output = _object(item, f"outputs[{i}]")
        name = _name(output, f"outputs[{i}]")
        if name in outputs:
            raise InvalidRequest(f"output names must be unique, got {name!r:.100} twice")
        own = _tensor_parameters(output, f"outputs[{i}].parameters")
        outputs[name] = _flag(own, "binary_data", f"outputs[{i}].parameters", binary_output)
    return InferRequest(tensors, identifier, parameters, outputs, binary_output)


def _array(fields: Mapping[str, Any], where: str, binary: _Binary) -> Array:
    shape = check_shape(_list(fields.get("shape"), f"{where}: shape"), where)
    datatype = check_datatype(fields.get("datatype"), where)
    size = _tensor_parameters(fields, f"{where}: parameters").get("binary_data_size")
    if size is None:
        return from_json(fields.get("data"), datatype, shape, where)
    if "data" in fields:
        raise InvalidRequest(f"{where}: give either data or binary_data_size, not both")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidRequest(f"{where}: binary_data_size must be a whole number of bytes")
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
    for name, own in parameters.items():
        if own.__class__ not in _SCALARS:
            raise InvalidRequest(f"{where}: {name!r:.100} must be a string, a number or a boolean")
    return parameters


def _tensor_parameters(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = _parameters(fields, where)
    check_offered(parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}: {name} must be true or false, got {shorten(value)}")
    return value
