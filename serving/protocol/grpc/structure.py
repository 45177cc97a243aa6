"""A look at the fields of a large message before it is parsed: could a valid request be so large?

protobuf takes 0.1 microseconds and 100 bytes for an empty tensor of two bytes: 8 MiB of them would
stop the gateway for 0.4 s, and take 400 MB. The values of a tensor are left to protobuf, which
parses 8 MiB of any in 0.2 s at most. To convert them takes longer, so they are counted first.
"""

from __future__ import annotations

import math
from typing import Any, Final

from tritonclient.grpc import service_pb2 as pb

from serving.errors import InvalidRequest
from serving.protocol.tensor import MAX_EXTRA_VALUES

MIN_BYTES: Final = 2**16
"""Smaller messages are not examined."""

MAX_FIELDS: Final = 20_000
"""Fields of a request with 1000 inputs and 1000 outputs, and some parameters of each."""

_REQUEST: Final[Any] = pb.ModelInferRequest.DESCRIPTOR
_TENSORS: Final = {_REQUEST.fields_by_name[name].number for name in ("inputs", "outputs")}
"""Numbers of the fields of a request that have fields which are counted."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GROUP: Final = (3, 4)
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}


def check_structure(raw: bytes) -> None:
    """Raise `InvalidRequest` if a `ModelInferRequest` has far more fields than requests have.

    Those of the request, its inputs and its outputs count. Bytes that are no message are left to
    the parser.
    """
    if len(raw) >= MIN_BYTES:
        try:
            _Scan(raw).message(0, len(raw), is_request=True)
        except IndexError:
            return


def check_values(message: Any, max_values: float) -> None:
    """Raise `InvalidRequest` if the typed contents of a `ModelInferRequest` have far more values.

    The inputs of a valid request have at most `max_values`.
    """
    if message.raw_input_contents or max_values == math.inf:
        return
    count = 0
    for tensor in message.inputs:
        # HasField comes first, because reading an unset field allocates a message.
        if tensor.HasField("contents"):
            count += sum(len(values) for _, values in tensor.contents.ListFields())
    if count > max_values + MAX_EXTRA_VALUES:
        raise InvalidRequest(
            "the inputs have far more values than a request for this model has, which is at most "
            f"{max_values:.0f}"
        )


class _Scan:
    """Counts the fields of a request, its inputs and outputs."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._fields = 0

    def message(self, position: int, end: int, *, is_request: bool) -> None:
        """Count the fields of a message between two positions. Raises `IndexError` at its end."""
        while position < end:
            tag, position = self._varint(position)
            number, wire_type = tag >> 3, tag & 7
            self._count_field()
            if wire_type == _VARINT:
                _, position = self._varint(position)
            elif wire_type == _BYTES:
                size, position = self._varint(position)
                if is_request and number in _TENSORS:
                    self.message(position, min(position + size, end), is_request=False)
                position += size
            elif wire_type in _SIZES:
                position += _SIZES[wire_type]
            elif wire_type in _GROUP:  # protobuf would skip it, and parse what follows
                raise InvalidRequest("the message has a group, which no field of a request is")
            else:
                raise IndexError

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise InvalidRequest(
                f"the message has more than {MAX_FIELDS} fields; a request has fewer, as the "
                "values of a tensor are one field"
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
