"""What the transports need from the layer that changes the set of variants.

A gateway without a `Control` serves a fixed set: it has no admin API, loads and unloads nothing,
and answers every request for inference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

Asgi: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

ADMIN: Final = "/v2/admin"
"""Beginning of the paths of the admin API."""

AUTHORIZATION: Final = "authorization"
"""Header or metadata key of a caller's token: `Bearer TOKEN`."""

CHALLENGE: Final = 'Bearer realm="paretoserve"'
"""Value of the header `www-authenticate` in a response with status 401."""

NO_REPOSITORY: Final = "this gateway serves a fixed set of variants: it loads and unloads none"
"""Message of an error."""


class Caller(NamedTuple):
    """Who sent a request."""

    authorization: str | None
    """Value of the header `authorization`, if any."""
    address: str
    """Network address, without the port."""


class Repository(Protocol):
    """The repository extension of V2. Its models are the variants of the one model."""

    def authorize(self, caller: Caller) -> str:
        """Return who the caller is, for `load` and `unload`. To be called before a body is read.

        Raises `Unauthorized`, `Forbidden` or `Overloaded`.
        """

    async def load(self, name: str, parameters: Mapping[str, Any], actor: str) -> None:
        """Return once the variant gets requests. Raises a leaf of `ServingError`."""

    async def unload(self, name: str, actor: str) -> None:
        """Return once the variant is removed. Raises a leaf of `ServingError`."""

    async def unloaded(self) -> Mapping[str, str]:
        """Return the variants that can be loaded, with the reason why each is not served."""


@dataclass(frozen=True)
class Control:
    """The administration of a gateway, as its transports see it."""

    admin: Asgi
    """Answers the requests whose paths begin with `ADMIN`."""
    repository: Repository
    max_body_bytes: int
    """Maximum size of a request to load or unload a variant; quotes of a recipe are escaped."""
    extend_openapi: Callable[[dict[str, Any]], None]
    """Adds the admin API to an OpenAPI document."""
    check_inference: Callable[[Caller], None] | None = None
    """Raises `Unauthorized` for a caller that may not send inference requests; None if all may."""
