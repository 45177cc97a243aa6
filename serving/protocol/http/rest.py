"""The rest of a body that arrives after the response: read and ignored, or not read at all.

HTTP/1.1 has no other way to reach the next request on a connection than to read the rest of the
body. That is worth it only if the rest is known to be small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_REST_BYTES: Final = 64 * 1024
"""Maximum size of the rest of a body that is read to keep the connection."""


def is_small(fields: Mapping[bytes, bytes], received: int) -> bool:
    """Return whether little is left of the body of a request with these headers.

    `received` are the bytes of it that have been read. The length of a chunked body is not known.
    """
    length = fields.get(b"content-length")
    return length is not None and int(length) - received <= MAX_REST_BYTES
