"""Headers of HTTP and metadata of gRPC that are given several times.

The values of a header that is a list are joined, as RFC 9110 (section 5.3) allows. A header with
one value must not contradict itself: which of two deadlines the client means cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from serving.errors import InvalidRequest
from serving.protocol.control import AUTHORIZATION
from serving.protocol.inference import UNIT_HEADER
from serving.routing.slo import HEADERS

JSON_LENGTH: Final = "inference-header-content-length"
IDEMPOTENCY_KEY: Final = "idempotency-key"

SINGLE: Final = frozenset(
    {*HEADERS, UNIT_HEADER, AUTHORIZATION, JSON_LENGTH, IDEMPOTENCY_KEY, "content-type"}
)
"""The headers that have one value, by lower-case name."""


def join_repeated(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the value of each name. Names must be in lower case.

    Raises `InvalidRequest` if a header of `SINGLE` has two different values.
    """
    joined: dict[str, str] = {}
    for name, value in pairs:
        earlier = joined.get(name)
        if earlier is None:
            joined[name] = value
        elif name not in SINGLE:
            joined[name] = f"{earlier}, {value}"
        elif value != earlier:
            raise InvalidRequest(f"{name} is given twice with different values; send it once")
    return joined
