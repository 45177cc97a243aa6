"""Parsing and rendering of V2's protobuf messages.

The values of an input are its entry in raw_input_contents, or the field of its contents for its
datatype. Outputs are always raw. The rules are those of `serving.protocol.http.codec`: every
malformed request raises an `InvalidRequest` that names the field and states the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest, ServingError
from serving.protocol.extension import check_supported
from serving.protocol.grpc.structure import check_values
from serving.protocol.messages import InferRequest, InferResponse
from serving.protocol.tensor import (
    Array,
    check_count,
    check_datatype,
    check_shape,
    from_raw,
    to_raw,
)
from variants.catalog.datatype import DATATYPE, NUMPY

CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of the contents for each datatype. Datatypes without one can only be sent raw."""


def parse_request(message: Any, max_values: float = math.inf) -> InferRequest:
    """Parse a `ModelInferRequest`. Its inputs have at most `max_values` values if it is valid.

    Raises `InvalidRequest`, or `Unsupported` for an unsupported extension; both carry the id of the
    request.
    """
    identifier = message.id or None
    try:
        check_values(message, max_values)
        return _parse_message(message, identifier)
    except ServingError as error:
        error.request_id = identifier
        raise


def render_response(response: InferResponse) -> Any:
    """Return a response as a `ModelInferResponse`."""
    message = pb.ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id or "",
    )
    parameters = message.parameters
    for name, value in response.parameters.items():
        _set_parameter(parameters[name], value)
    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=DATATYPE[array.dtype], shape=array.shape)
        message.raw_output_contents.append(bytes(to_raw(array)))
    return message


def _parse_message(message: Any, identifier: str | None) -> InferRequest:
    inputs = message.inputs
    if not inputs:
        raise InvalidRequest("inputs must hold at least one tensor")
    requested = message.outputs
    check_count(len(inputs), len(requested))
    raw = message.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise InvalidRequest(
            "raw_input_contents must be empty or have one entry for each input, in the same order; "
            f"there are {len(inputs)} inputs and {len(raw)} entries"
        )
    tensors: dict[str, Array] = {}
    for i, tensor in enumerate(inputs):
        name = tensor.name
        if not name:
            raise InvalidRequest(f"inputs[{i}] must have a name")
        if name in tensors:
            raise InvalidRequest(f"input names must be unique, {name!r:.100} occurs twice")
        tensors[name] = _parse_tensor(tensor, raw[i] if raw else None, f"input {name!r:.100}")
    outputs: dict[str, bool] = {}
    for i, output in enumerate(requested):
        name = output.name
        if not name:
            raise InvalidRequest(f"outputs[{i}] must have a name")
        if name in outputs:
            raise InvalidRequest(f"output names must be unique, {name!r:.100} occurs twice")
        check_supported(_parameters(output.parameters, f"outputs[{i}].parameters"))
        outputs[name] = True
    parameters = _parameters(message.parameters, "parameters")
    return InferRequest(tensors, identifier, parameters, outputs, binary_output=True)


def _parse_tensor(tensor: Any, raw: bytes | None, where: str) -> Array:
    shape = check_shape(tensor.shape, where)
    datatype = check_datatype(tensor.datatype, where)
    check_supported(_parameters(tensor.parameters, f"{where}: parameters"))
    # HasField comes first, because reading an unset field allocates a message.
    contents = tensor.contents.ListFields() if tensor.HasField("contents") else []
    if raw is None:
        return _from_contents(
            {field.name: values for field, values in contents}, datatype, shape, where
        )
    if contents:
        raise InvalidRequest(
            f"{where}: contents must be empty if the request has raw_input_contents"
        )
    return from_raw(datatype, shape, raw, where)


def _from_contents(
    contents: Mapping[str, Any], datatype: str, shape: tuple[int, ...], where: str
) -> Array:
    field = CONTENTS.get(datatype)
    if field is None:
        raise InvalidRequest(f"{where}: {datatype} can only be sent in raw_input_contents")
    if contents.keys() - {field}:
        raise InvalidRequest(
            f"{where}: contents of {datatype} must be in {field} only, "
            f"the request has {', '.join(contents)}"
        )
    values = contents.get(field, ())
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidRequest(
            f"{where}: shape {list(shape)} holds {count} values, {field} has {len(values)}"
        )
    try:
        array = np.fromiter(values, NUMPY[datatype], count)
    except OverflowError:
        limits = np.iinfo(NUMPY[datatype])
        raise InvalidRequest(
            f"{where}: {field} has a value outside the range of {datatype}, "
            f"{limits.min} to {limits.max}"
        ) from None
    return array.reshape(shape)


def _parameters(parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    values = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(
                f"{where}: {name!r:.100} must have a value: a string, a number or a boolean"
            )
        values[name] = getattr(parameter, kind)
    return values


def _set_parameter(parameter: Any, value: Any) -> None:
    # In order of frequency. The classes are compared, because bool is a subclass of int.
    kind = value.__class__
    if kind is float:
        parameter.double_param = value
    elif kind is str:
        parameter.string_param = value
    elif kind is bool:
        parameter.bool_param = value
    elif -(2**63) <= value < 2**63:
        parameter.int64_param = value
    else:
        parameter.uint64_param = value
