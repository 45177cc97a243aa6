"""Bytes to messages and back: V2 JSON, and the binary tensor extension.

    body = JSON ‖ raw tensors in the order of the inputs, little-endian, row-major;
    the header Inference-Header-Content-Length gives the length of the JSON part.

Binary tensors are views of the body: nothing is copied. Every fault in a request is an
`InvalidRequest` that names the place and what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.errors import InvalidRequest, shown
from serving.protocol.messages import InferRequest, InferResponse
from variants.datatype import DATATYPE, NUMPY

Array = npt.NDArray[Any]

MAX_DIMENSIONS = 8
MAX_VALUES = 2**48
"""In one tensor, an empty dimension not counted: numpy refuses what no address could reach."""


def parse_request(body: bytes, json_length: int | None) -> InferRequest:
    """Read one request; `json_length` is None where the whole body is JSON."""
    view = memoryview(body)
    if json_length is None:
        json_length = len(body)
    elif not 0 < json_length <= len(body):
        raise InvalidRequest(
            f"the header Inference-Header-Content-Length says {json_length}, "
            f"but the body has {len(body)} bytes; it must be the length of the JSON part"
        )
    try:
        document = orjson.loads(view[:json_length])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None

    fields = _object(document, "the body")
    binary = _Binary(view[json_length:])
    inputs = _list(fields.get("inputs"), "inputs")
    if not inputs:
        raise InvalidRequest("inputs must hold at least one tensor")
    tensors: dict[str, Array] = {}
    for i, item in enumerate(inputs):
        tensor = _object(item, f"inputs[{i}]")
        name = _name(tensor, f"inputs[{i}]")
        if name in tensors:
            raise InvalidRequest(f"input names must be unique, got {name!r:.100} twice")
        tensors[name] = _array(tensor, f"input {name!r:.100}", binary)
    binary.must_be_used_up()

    identifier = fields.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidRequest(f"id must be a string, got {shown(identifier)}")
    parameters = _parameters(fields, "parameters")
    binary_output = _flag(parameters, "binary_data_output", "parameters", default=False)
    outputs: dict[str, bool] = {}
    for i, item in enumerate(_list(fields.get("outputs", []), "outputs")):
        output = _object(item, f"outputs[{i}]")
        name = _name(output, f"outputs[{i}]")
        if name in outputs:
            raise InvalidRequest(f"output names must be unique, got {name!r:.100} twice")
        own = _parameters(output, f"outputs[{i}].parameters")
        outputs[name] = _flag(own, "binary_data", f"outputs[{i}].parameters", binary_output)
    return InferRequest(tensors, identifier, parameters, outputs, binary_output)


def render_response(
    response: InferResponse, binary: Mapping[str, bool], default: bool
) -> tuple[bytes, int | None]:
    """Write one answer: the body, and the length of its JSON part where binary tensors follow.

    `binary` says per output whether it goes as binary; an output it does not name goes as
    `default` says.
    """
    outputs = []
    buffers: list[bytes] = []
    for name, array in response.outputs.items():
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPE[array.dtype],
            "shape": array.shape,
        }
        if binary.get(name, default):
            buffers.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            output["data"] = np.ascontiguousarray(array).reshape(-1)
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


def _array(fields: Mapping[str, Any], where: str, binary: _Binary) -> Array:
    shape = _shape(fields.get("shape"), where)
    datatype = fields.get("datatype")
    dtype = NUMPY.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        known = ", ".join(NUMPY)
        raise InvalidRequest(f"{where}: datatype must be one of {known}")
    size = _parameters(fields, f"{where}: parameters").get("binary_data_size")
    if size is None:
        return _from_json(fields.get("data"), dtype, shape, where)
    if "data" in fields:
        raise InvalidRequest(f"{where}: give either data or binary_data_size, not both")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidRequest(f"{where}: binary_data_size must be a whole number of bytes")
    wanted = math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise InvalidRequest(
            f"{where}: shape {list(shape)} of {datatype} takes {wanted} bytes, "
            f"binary_data_size is {size}"
        )
    return np.frombuffer(binary.take(size, where), dtype).reshape(shape)


def _from_json(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    if not isinstance(data, list):
        raise InvalidRequest(f"{where}: data must be a list of values, nested or flat")
    # Before numpy sees it: it would pad every value to the length of the longest text.
    if len(data) > max(1, *shape, math.prod(shape)):
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {math.prod(shape)} values, data has {len(data)}"
        )
    types = _types(data)
    if list in types:
        raise InvalidRequest(f"{where}: data is nested over {MAX_DIMENSIONS} deep")
    if not types <= _JSON_TYPES[dtype.kind]:
        raise InvalidRequest(f"{where}: data must be {_WORDS[dtype.kind]}, without null or text")
    try:
        with np.errstate(over="ignore"):
            array = np.array(data, dtype)
    except ValueError:
        raise InvalidRequest(f"{where}: data is nested unevenly") from None
    except OverflowError:
        raise InvalidRequest(f"{where}: {_RANGE}") from None
    if array.size != math.prod(shape):
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {math.prod(shape)} values, data has {array.size}"
        )
    if array.size and array.ndim != 1 and array.shape != shape:
        raise InvalidRequest(
            f"{where}: data is nested as {list(array.shape)}, shape says {list(shape)}"
        )
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"{where}: {_RANGE}")
    return array.reshape(shape)


def _types(data: list[Any], depth: int = 1) -> set[type]:
    """Return the types of the values; `list` is one of them only where they lie too deep."""
    types = set(map(type, data))
    if list in types and depth < MAX_DIMENSIONS:
        types.remove(list)
        for item in data:
            if isinstance(item, list):
                types |= _types(item, depth + 1)
    return types


_JSON_TYPES: Mapping[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_RANGE = "data has a value outside the range of its datatype"
_WORDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def _shape(value: Any, where: str) -> tuple[int, ...]:
    dimensions = _list(value, f"{where}: shape")
    for dimension in dimensions:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 0:
            raise InvalidRequest(
                f"{where}: shape must hold whole numbers of at least 0, got {shown(dimension)}"
            )
    if len(dimensions) > MAX_DIMENSIONS:
        raise InvalidRequest(f"{where}: shape has over {MAX_DIMENSIONS} dimensions")
    if math.prod(max(1, dimension) for dimension in dimensions) > MAX_VALUES:
        raise InvalidRequest(f"{where}: shape {dimensions} is larger than any tensor")
    return tuple(dimensions)


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
    return {} if value is None else _object(value, where)


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}: {name} must be true or false, got {shown(value)}")
    return value
