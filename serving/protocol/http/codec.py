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

from serving.errors import InvalidRequest, ServingError
from serving.protocol.http.description import BinaryTensor, describe
from serving.protocol.http.json_tensor import to_json
from serving.protocol.http.structure import check_structure
from serving.protocol.messages import InferRequest, InferResponse
from serving.protocol.tensor import BINARY_ONLY, MAX_DIMENSIONS, Array, from_raw, to_raw
from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import DATATYPE, NUMPY

_LARGE_JSON_BYTES: Final = 2**16
"""From this size on, JSON is examined before it is parsed, and garbage collection is disabled while
it is parsed. Parsing makes no garbage, and scanning millions of new lists for it takes ten times as
long as parsing them."""


def parse_request(
    body: bytes | bytearray,
    json_length: int | None,
    inputs: Sequence[TensorSpec] = (),
    max_values: float = math.inf,
) -> InferRequest:
    """Parse a request. `json_length` is None if the whole body is JSON.

    If it is 0, the body is a raw request for a model with these `inputs`. The inputs of a valid
    request have at most `max_values` values. Raises `InvalidRequest`, or `Unsupported` for an
    unsupported extension; both carry the id of the request.
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
    if json_length < _LARGE_JSON_BYTES:
        return _parse(body, json_length)
    dimensions = max((len(spec.shape) for spec in inputs), default=MAX_DIMENSIONS)
    check_structure(body, json_length, max_values, dimensions)
    if not gc.isenabled():
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


def _parse(body: bytes | bytearray, json_length: int) -> InferRequest:
    view = memoryview(body)
    description = describe(view[:json_length], has_more=json_length < len(body))
    try:
        inputs = _take_tensors(description.inputs, view, json_length)
    except ServingError as error:
        error.request_id = description.id
        raise
    return InferRequest(
        inputs,
        description.id,
        description.parameters,
        description.outputs,
        description.binary_output,
    )


def _take_tensors(
    inputs: Mapping[str, BinaryTensor | Array], view: memoryview, position: int
) -> dict[str, Array]:
    """Return the tensors of a request whose raw tensors begin at `position`."""
    tensors: dict[str, Array] = {}
    for name, tensor in inputs.items():
        if not isinstance(tensor, BinaryTensor):
            tensors[name] = tensor
            continue
        datatype, shape, size, where = tensor
        end = position + size
        if end > len(view):
            raise InvalidRequest(
                f"{where}: binary_data_size is {size}, "
                f"but only {len(view) - position} bytes of the body remain"
            )
        tensors[name] = from_raw(datatype, shape, view[position:end], where)
        position = end
    if position != len(view):
        raise InvalidRequest(
            f"{len(view) - position} extra bytes follow the tensors that the inputs describe"
        )
    return tensors


def parse_raw_request(body: bytes | bytearray, inputs: Sequence[TensorSpec]) -> InferRequest:
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
        array = np.array([bytes(body)], NUMPY["BYTES"]).reshape((1,) * len(spec.shape))
    else:
        step = fixed * NUMPY[spec.datatype].itemsize
        variable = len(body) // max(1, step)
        shape = (1, *(variable if size == -1 else size for size in sizes))
        array = from_raw(spec.datatype, shape, memoryview(body), f"the raw request for {where}")
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
