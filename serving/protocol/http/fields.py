"""The headers of a request by name, and what the transfer of a request requires of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.errors import InvalidRequest, Unsupported
from serving.protocol.repeated import join_repeated

HOST: Final = b"host"
TRANSFER_ENCODING: Final = b"transfer-encoding"

ONE_HOST: Final = "a request of HTTP/1.1 must have the header Host, once"


def read_fields(headers: Sequence[tuple[bytes, bytes]], version: str) -> dict[bytes, bytes]:
    """Return the headers of a request of this version of HTTP by lower-case name.

    Raises `InvalidRequest` if a header contradicts itself, or Host is missing or given twice (RFC
    9112, section 3.2); `Unsupported` for a transfer coding other than chunked (section 6.1).
    """
    fields = dict(headers)
    if len(fields) < len(headers):
        fields = _join(headers)
    if HOST not in fields and version != "1.0":
        raise InvalidRequest(ONE_HOST)
    coding = fields.get(TRANSFER_ENCODING)
    if coding is not None and coding.lower() != b"chunked":
        raise Unsupported(
            "Transfer-Encoding must be chunked; compress with Content-Encoding instead"
        )
    return fields


def _join(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    if sum(name == HOST for name, _ in headers) > 1:
        raise InvalidRequest(ONE_HOST)
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
    joined = join_repeated(pairs)
    return {name.encode("latin-1"): value.encode("latin-1") for name, value in joined.items()}
