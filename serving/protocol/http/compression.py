"""Content codings of HTTP bodies: gzip and deflate, with a limit on decompressed size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from serving.errors import InvalidRequest, RequestTooLarge

MIN_COMPRESSED_BYTES: Final = 1024
"""Shorter responses are not compressed: most clients accept gzip, few benefit from it."""

LEVEL: Final = 1
"""The fastest level, because compression blocks the event loop of the gateway."""

MAX_MEMBERS: Final = 1000
"""Maximum number of members in a gzip body. Block compressors write a few hundred at most."""

_CHUNK_BYTES: Final = 2**16
"""Bytes passed to zlib at a time. zlib copies the bytes after the end of a member, so passing the
whole rest would take quadratic time if there are many members."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZLIB: Final = zlib.MAX_WBITS
_RAW_DEFLATE: Final = -zlib.MAX_WBITS
"""Deflate without the zlib header: not what the standard requires, but some clients send it."""

_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body, LEVEL, mtime=0),
    "deflate": lambda body: zlib.compress(body, LEVEL),
}
"""The codings of responses, in order of preference."""


def decompress(body: bytes | bytearray, coding: bytes, limit: int) -> bytes:
    """Return a body with its Content-Encoding decoded.

    Raises `InvalidRequest` if the coding is unknown or the body is corrupt, `RequestTooLarge` if
    the result is larger than `limit` bytes; no more than that is decompressed.
    """
    match coding.strip().lower():
        case b"identity" | b"":
            return bytes(body)
        case b"gzip" | b"x-gzip":
            return _inflate(body, _GZIP, limit)
        case b"deflate":
            has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            return _inflate(body, _ZLIB if has_header else _RAW_DEFLATE, limit)
    raise InvalidRequest(
        f"Content-Encoding must be gzip, deflate or identity, got {coding.decode('latin-1')!r:.100}"
    )


def compress(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Return a body, compressed if its Accept-Encoding allows, and its coding, or None."""
    if accepted is None or len(body) < MIN_COMPRESSED_BYTES:
        return body, None
    coding = choose_coding(accepted)
    return (body, None) if coding is None else (_COMPRESS[coding](body), coding.encode())


def choose_coding(accepted: bytes) -> str | None:
    """Return the preferred coding that an Accept-Encoding allows, or None."""
    allowed: dict[str, bool] = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, _, parameter = item.partition(";")
        allowed[name.strip()] = not _is_zero(parameter)
    return next((name for name in _COMPRESS if allowed.get(name, allowed.get("*", False))), None)


def _inflate(body: bytes | bytearray, window: int, limit: int) -> bytes:
    """Decompress a body. A gzip body may have several members in sequence (RFC 1952)."""
    view = memoryview(body)
    contents: list[bytes] = []
    position, left = 0, limit
    for _ in range(MAX_MEMBERS):
        decompressor = zlib.decompressobj(window)
        while not decompressor.eof:
            chunk = view[position : position + _CHUNK_BYTES]
            if not chunk:
                raise InvalidRequest("the compressed body is truncated")
            try:
                contents.append(decompressor.decompress(chunk, left + 1))
            except zlib.error:
                raise InvalidRequest("the body does not match its Content-Encoding") from None
            left -= len(contents[-1])
            if left < 0:
                raise RequestTooLarge(
                    f"the decompressed body is larger than {limit} bytes; send fewer samples"
                )
            position += len(chunk) - len(decompressor.unused_data)
        if position == len(body):
            return b"".join(contents)
        if window != _GZIP or not body.startswith(_GZIP_MAGIC, position):
            raise InvalidRequest("extra bytes follow the compressed body")
    raise InvalidRequest(f"the gzip body has more than {MAX_MEMBERS} members; send one")


def _is_zero(parameter: str) -> bool:
    """Return whether a quality parameter such as `q=0.0` rules a coding out."""
    name, _, value = parameter.partition("=")
    try:
        return name.strip() == "q" and float(value) == 0
    except ValueError:
        return False
