"""Content codings of HTTP bodies: gzip and deflate, both ways, within a limit."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from serving.errors import InvalidRequest, RequestTooLarge

LEAST_BYTES: Final = 1024
"""Shorter answers are not compressed: most clients say that they take gzip, few care."""

LEVEL: Final = 1
"""Compressing holds the gateway's one loop: the fastest level there is."""

MAX_MEMBERS: Final = 1000
"""Of one gzip body: those who compress in blocks need some hundred for the largest body."""

_PIECE_BYTES: Final = 2**16
"""What is read at once: what follows a member is copied, and may have many members itself."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_STARTS: Final = b"\x1f\x8b"
_ZLIB: Final = zlib.MAX_WBITS
_BARE: Final = -zlib.MAX_WBITS
"""Deflate without zlib's header: not what the standard says, but what some clients send."""

_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body, LEVEL, mtime=0),
    "deflate": lambda body: zlib.compress(body, LEVEL),
}
"""By preference."""


def decompress(body: bytes, coding: bytes, limit: int) -> bytes:
    """Return a body as it was before its Content-Encoding.

    Raises `InvalidRequest` if it is none of ours or broken, `RequestTooLarge` above `limit` bytes:
    no more than that is unpacked.
    """
    match coding.strip().lower():
        case b"identity" | b"":
            return body
        case b"gzip" | b"x-gzip":
            return _inflate(body, _GZIP, limit)
        case b"deflate":
            has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            return _inflate(body, _ZLIB if has_header else _BARE, limit)
    raise InvalidRequest(
        f"Content-Encoding must be gzip, deflate or identity, got {coding.decode('latin-1')!r:.100}"
    )


def encode(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Return a body as a client takes it by its Accept-Encoding, and its coding if it has one."""
    if accepted is None or len(body) < LEAST_BYTES:
        return body, None
    coding = choose(accepted)
    return (body, None) if coding is None else (_COMPRESS[coding](body), coding.encode())


def choose(accepted: bytes) -> str | None:
    """Return the coding for an answer by the request's Accept-Encoding, or None for none."""
    weights: dict[str, bool] = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, _, parameter = item.partition(";")
        weights[name.strip()] = not _is_zero(parameter)
    return next((name for name in _COMPRESS if weights.get(name, weights.get("*", False))), None)


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    """Unpack a body; one of gzip may be several, one after the other, as RFC 1952 has it."""
    view = memoryview(body)
    contents: list[bytes] = []
    at, left = 0, limit
    for _ in range(MAX_MEMBERS):
        reader = zlib.decompressobj(window)
        while not reader.eof:
            piece = view[at : at + _PIECE_BYTES]
            if not piece:
                raise InvalidRequest("the compressed body ends too early")
            try:
                contents.append(reader.decompress(piece, left + 1))
            except zlib.error:
                raise InvalidRequest("the body is not what its Content-Encoding says") from None
            left -= len(contents[-1])
            if left < 0:
                raise RequestTooLarge(
                    f"the body unpacks to more than {limit} bytes; send fewer samples at once"
                )
            at += len(piece) - len(reader.unused_data)
        if at == len(body):
            return b"".join(contents)
        if window != _GZIP or not body.startswith(_GZIP_STARTS, at):
            raise InvalidRequest("something follows the compressed body")
    raise InvalidRequest(f"the body has over {MAX_MEMBERS} members of gzip; compress it as one")


def _is_zero(parameter: str) -> bool:
    """Return whether a weight such as `q=0.0` says no."""
    name, _, value = parameter.partition("=")
    try:
        return name.strip() == "q" and float(value) == 0
    except ValueError:
        return False
