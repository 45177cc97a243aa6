"""A look at the fields of a large message before it is parsed: could a valid request be so large?

protobuf takes 60 ns and 100 bytes for an empty field of two bytes, and to convert a value of typed
contents takes 70 ns: 8 MiB would stop the gateway for half a second, and take 400 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest
from serving.protocol.tensor import MAX_EXTRA_VALUES

MIN_BYTES: Final = 2**16
"""Smaller messages are not examined."""

MAX_FIELDS: Final = 20_000
"""Fields of a request with 1000 inputs and 1000 outputs, and some parameters of each."""

_REQUEST: Final[Any] = pb.ModelInferRequest.DESCRIPTOR
_INPUT: Final[Any] = pb.ModelInferRequest.InferInputTensor.DESCRIPTOR
_CONTENTS: Final[Any] = pb.InferTensorContents.DESCRIPTOR

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_WIDTHS: Final = {"fp32_contents": 4, "fp64_contents": 8}
_PACKED: Final[Mapping[int, int]] = {
    field.number: _WIDTHS.get(field.name, 0)
    for field in _CONTENTS.fields
    if field.name != "bytes_contents"
}
"""Bytes of a value by number of the field of the contents; 0 if they differ."""


def check_structure(raw: bytes, max_values: float) -> None:
    """Raise `InvalidRequest` if a `ModelInferRequest` has far more fields or values than requests.

    The inputs of a valid request have at most `max_values` values. Bytes that are no message are
    left to the parser.
    """
    if len(raw) >= MIN_BYTES:
        scan = _Scan(raw, max_values)
        try:
            scan.message(_REQUEST, 0, len(raw))
        except IndexError:
            return


class _Scan:
    """Counts the fields of a request, its inputs and outputs, and the values of its inputs."""

    def __init__(self, raw: bytes, max_values: float) -> None:
        self._raw = raw
        self._max_values = max_values
        self._fields = 0
        self._values = 0

    def message(self, kind: Any, position: int, end: int) -> None:
        """Count the fields of a message between two positions. Raises `IndexError` at its end."""
        while position < end:
            tag, position = self._varint(position)
            number, wire_type = tag >> 3, tag & 7
            size = 0
            if wire_type == _BYTES:
                size, position = self._varint(position)
            if kind is _CONTENTS:
                self._count_values(number, wire_type, position, min(position + size, end))
            else:
                self._count_field()
                self._enter(kind, number, position, min(position + size, end))
            if wire_type == _VARINT:
                _, position = self._varint(position)
            elif wire_type in (_BYTES, *_SIZES):
                position += _SIZES.get(wire_type, size)
            else:  # a group, or no message
                raise IndexError

    def _enter(self, kind: Any, number: int, start: int, end: int) -> None:
        field = kind.fields_by_number.get(number)
        inner = None if field is None else field.message_type
        if kind is _REQUEST and number != _REQUEST.fields_by_name["parameters"].number:
            if inner is not None:
                self.message(inner, start, end)
        elif inner is _CONTENTS and self._max_values < np.inf:
            self.message(_CONTENTS, start, end)

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise InvalidRequest(
                f"the message has more than {MAX_FIELDS} fields; a request has fewer, as the "
                "values of a tensor are one field"
            )

    def _count_values(self, number: int, wire_type: int, start: int, end: int) -> None:
        width = _PACKED.get(number)
        if wire_type != _BYTES or width is None:
            self._values += 1
        elif width:
            self._values += (end - start) // width
        else:  # the last byte of each value has no eighth bit
            packed = np.frombuffer(self._raw, np.uint8)[start:end]
            self._values += int(np.count_nonzero(packed < 128))
        if self._values > self._max_values + MAX_EXTRA_VALUES:
            raise InvalidRequest(
                "the inputs have far more values than a request for this model has, which is at "
                f"most {self._max_values:.0f}"
            )

    def _varint(self, position: int) -> tuple[int, int]:
        """Return the number at a position, and the position behind it."""
        value = shift = 0
        while True:
            byte = self._raw[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
            if shift > 63:
                raise IndexError
