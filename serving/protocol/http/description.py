"""What the JSON part of a request says: its tensors, parameters and outputs.

Clients that send tensors as binary repeat the same JSON part in each request. It is parsed and
checked once, and found again by its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from serving.errors import InvalidRequest, ServingError, shorten
from serving.protocol.exact_integers import read_exactly
from serving.protocol.extension import check_supported
from serving.protocol.http.json_tensor import from_json
from serving.protocol.json_document import parse_json
from serving.protocol.tensor import Array, check_count, check_datatype, check_shape
from serving.routing.slo import PARAMETERS

MAX_KEPT: Final = 256
"""Number of descriptions that are kept."""

MAX_KEPT_BYTES: Final = 4096
"""Maximum size of the JSON part of a description that is kept."""

LARGEST: Final = 2.0**63
"""Least magnitude of the integers that orjson reads as floats."""

_SCALARS: Final = frozenset({str, int, float, bool})


class BinaryTensor(NamedTuple):
    """A tensor of which the raw bytes follow the JSON part."""

    datatype: str
    shape: tuple[int, ...]
    size: int
    """Number of bytes that the request states."""
    where: str
    """Beginning of the messages of errors."""


@dataclass(frozen=True, slots=True)
class Description:
    """The JSON part of a request. Requests with the same JSON part share it."""

    inputs: Mapping[str, BinaryTensor | Array]
    """By name, in the order of the request. A tensor that was sent as JSON is complete."""
    id: str | None
    parameters: Mapping[str, Any]
    outputs: Mapping[str, bool]
    binary_output: bool


_kept: dict[bytes, Description] = {}


def describe(json: memoryview, *, has_more: bool) -> Description:
    """Parse the JSON part of a request; `has_more` is whether bytes follow it.

    Raises `InvalidRequest`, or `Unsupported` for an unsupported extension; both carry the id of
    the request.
    """
    if not has_more or len(json) > MAX_KEPT_BYTES:
        return _parse(json)
    key = bytes(json)
    description = _kept.get(key)
    if description is None:
        description = _parse(key)
        if all(isinstance(tensor, BinaryTensor) for tensor in description.inputs.values()):
            if len(_kept) >= MAX_KEPT:
                _kept.clear()
            _kept[key] = description
    return description


def _parse(json: bytes | memoryview) -> Description:
    document = parse_json(json)
    try:
        description = _parse_fields(_object(document, "the body"))
    except InvalidRequest:
        exact = read_exactly(json)
        if exact is not None:  # the same error, with numbers as they were sent
            _parse_fields(_object(exact, "the body"))
        raise
    inexact = [name for name, value in description.parameters.items() if _is_inexact(name, value)]
    if inexact and (exact := read_exactly(json)) is not None:
        values = {name: exact["parameters"][name] for name in inexact}
        return replace(description, parameters={**description.parameters, **values})
    return description


def _is_inexact(name: str, value: Any) -> bool:
    """Return whether this parameter of the SLO may have been a larger integer than orjson reads."""
    return value.__class__ is float and abs(value) >= LARGEST and name in PARAMETERS


def _parse_fields(fields: Mapping[str, Any]) -> Description:
    identifier = fields.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidRequest(f"id must be a string, got {shorten(identifier)}")
    try:
        return _parse_document(fields, identifier)
    except ServingError as error:
        error.request_id = identifier
        raise


def _parse_document(fields: Mapping[str, Any], identifier: str | None) -> Description:
    inputs = _list(_required(fields, "inputs", "inputs"), "inputs")
    if not inputs:
        raise InvalidRequest("inputs must hold at least one tensor")
    requested = fields.get("outputs")
    requested = [] if requested is None else _list(requested, "outputs")
    check_count(len(inputs), len(requested))
    tensors: dict[str, BinaryTensor | Array] = {}
    for i, item in enumerate(inputs):
        tensor = _object(item, f"inputs[{i}]")
        name = _name(tensor, f"inputs[{i}]")
        if name in tensors:
            raise InvalidRequest(f"input names must be unique, {name!r:.100} occurs twice")
        tensors[name] = _parse_tensor(tensor, f"input {name!r:.100}")

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
    return Description(tensors, identifier, parameters, outputs, binary_output)


def _parse_tensor(fields: Mapping[str, Any], where: str) -> BinaryTensor | Array:
    where_shape = f"{where}: shape"
    shape = check_shape(_list(_required(fields, "shape", where_shape), where_shape), where)
    datatype = check_datatype(fields.get("datatype"), where)
    size = _tensor_parameters(fields, f"{where}: parameters").get("binary_data_size")
    if size is None:
        if "data" not in fields:
            raise InvalidRequest(
                f"{where}: the values are missing; send them as data, or as binary after the JSON "
                "part with the parameter binary_data_size"
            )
        return from_json(fields["data"], datatype, shape, where)
    if "data" in fields:
        raise InvalidRequest(f"{where}: send either data or binary_data_size, not both")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidRequest(
            f"{where}: binary_data_size must be an integer number of bytes, at least 0"
        )
    return BinaryTensor(datatype, shape, size, where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be a JSON object")
    return value


def _required(fields: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise InvalidRequest(f"{where} is missing; it must be a list")
    return fields[name]


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
