"""Content codings of HTTP bodies: gzip and deflate, with a limit on decompressed size."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from serving.errors import InvalidRequest, RequestTooLarge
from serving.protocol.http.preferences import read_preferences
from serving.protocol.http.response import Response

MIN_COMPRESSED_BYTES: Final = 1024
"""Shorter responses are not compressed: most clients accept gzip, few benefit from it."""

NEVER: Final = math.inf
"""For responses that are compressed only on demand. tritonclient.http.aio always accepts gzip, but
decompresses only inference responses."""

LEVEL: Final = 1
"""The fastest level, because compression blocks the event loop of the gateway."""

MAX_MEMBERS: Final = 1000
"""Maximum number of members in a gzip body. Block compressors write a few hundred at most."""

MAX_CACHED_HEADER: Final = 256
"""Maximum length of an Accept-Encoding whose coding is kept, in bytes."""

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


class Choice(NamedTuple):
    """The coding of a response."""

    coding: str | None
    """None if the client prefers the body as it is, or accepts no coding that exists here."""
    is_required: bool
    """Whether the client does not accept the body as it is."""


def encode(
    response: Response, accepted: bytes | None, min_bytes: float = MIN_COMPRESSED_BYTES
) -> Response:
    """Return a response, compressed if its Accept-Encoding prefers that.

    A body of less than `min_bytes` is compressed only if the client accepts nothing else.
    """
    if accepted is None:
        return response
    coding, is_required = choose_coding(accepted)
    if coding is None or (len(response.body) < min_bytes and not is_required):
        return response
    headers = (
        *response.headers,
        (b"content-encoding", coding.encode()),
        (b"vary", b"accept-encoding"),
    )
    return response._replace(body=_COMPRESS[coding](response.body), headers=headers)


def choose_coding(accepted: bytes) -> Choice:
    """Return the coding that an Accept-Encoding prefers (RFC 9110, section 12.5.3)."""
    return _choose_cached(accepted) if len(accepted) <= MAX_CACHED_HEADER else _choose(accepted)


def _choose(accepted: bytes) -> Choice:
    weights = {item.name: item.weight for item in reversed(read_preferences(accepted))}
    others = weights.get("*", 0.0)
    coding = max(_COMPRESS, key=lambda name: weights.get(name, others))
    weight = weights.get(coding, others)
    plain = weights.get("identity", others if "*" in weights else None)
    if weight == 0 or weight < weights.get("identity", 0.0):
        return Choice(None, False)
    return Choice(coding, plain == 0)


_choose_cached = lru_cache(maxsize=256)(_choose)


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
