"""Bearer tokens of the administrative API: who may read or change the state.

    Authorization: Bearer <token> ─▶ Authorizer.require(...) ─▶ the Token, by name and scope

Tokens are random, so their SHA-256 is stored without salt; the text of a token exists only where it
is used, and in the file that the first start makes. Failed attempts are limited by address.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from serving.control.state import Scope
from serving.errors import Forbidden, Overloaded, Unauthorized
from variants.catalog.record import Record

FILE: Final = "admin-token"
FIRST_TOKEN: Final = "admin"
"""Name of the token in the file."""

Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

logger = logging.getLogger(__name__)


class Token(Record):
    """A named token as it is stored."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$")
    scope: Scope
    sha256: Sha256
    """SHA-256 of the token's text: `printf %s TOKEN | sha256sum`."""


def create() -> str:
    """Return the text of a new token: 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """Return the SHA-256 of a token's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def load_or_create(path: Path) -> Token:
    """Return the token in a file; create the file, with mode 0600, if there is none.

    Of several processes that start at once, one creates it and all return the same. Raises
    `ValueError` if the file is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create_file(path)
    text = path.read_text().strip()
    if not text:
        raise ValueError(f"{path} is empty: delete it, and the next start makes a new token")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("other users may read the token in %s: chmod 600 %s", path, path)
    return Token(name=FIRST_TOKEN, scope="admin", sha256=digest(text))


def _create_file(path: Path) -> None:
    """Write a new token, unless another process does so first."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(create() + "\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, this fails if the file exists
    finally:
        Path(draft).unlink()


class AttemptLimiter:
    """Counts the failed attempts of each address and blocks it for a while after too many.

    Remembers a bounded number of addresses, the most recent ones. Not for several threads.
    """

    def __init__(
        self,
        attempts: int = 10,
        window_s: float = 60.0,
        addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allow `attempts` failures of an address within `window_s` seconds."""
        self._attempts = attempts
        self._window_s = window_s
        self._addresses = addresses
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def blocked_s(self, address: str) -> float:
        """Return the seconds for which an address has no further attempt, 0 if it has one."""
        times = self._failed.get(address)
        if times is None or len(times) < self._attempts:
            return 0.0
        return max(0.0, times[0] + self._window_s - self._clock())

    def failed(self, address: str) -> None:
        """Count a failed attempt."""
        times = self._failed.setdefault(address, deque(maxlen=self._attempts))
        times.append(self._clock())
        self._failed.move_to_end(address)
        while len(self._failed) > self._addresses:
            self._failed.popitem(last=False)


class Authorizer:
    """Finds the token of a request. Use it from one thread."""

    def __init__(
        self,
        tokens: Sequence[Token],
        limiter: AttemptLimiter | None = None,
        on_failure: Callable[[str], None] = lambda address: None,
    ) -> None:
        """Accept `tokens`. `on_failure` gets the address of each failed attempt, for the audit.

        Raises `ValueError` if two tokens have the same name.
        """
        names = [token.name for token in tokens]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of tokens must differ, got {', '.join(sorted(names))}")
        self._tokens = tuple(tokens)
        self._limiter = limiter or AttemptLimiter()
        self._on_failure = on_failure

    def require(self, authorization: str | None, scope: Scope, address: str) -> Token:
        """Return the token in the header `Authorization` if it has the scope; `admin` has both.

        `address` is that of the client. A missing header is no attempt. Raises `Unauthorized`,
        `Forbidden`, or `Overloaded` after too many failed attempts, even for a right token.
        """
        blocked_s = self._limiter.blocked_s(address)
        if blocked_s > 0:
            raise Overloaded("too many failed attempts; wait, then use a valid token", blocked_s)
        if not authorization:
            raise Unauthorized("this needs a token: send `Authorization: Bearer TOKEN`")
        kind, _, text = authorization.partition(" ")
        token = self._find(text.strip()) if kind.lower() == "bearer" else None
        if token is None:
            self._limiter.failed(address)
            self._on_failure(address)
            raise Unauthorized("the token is not known: send `Authorization: Bearer TOKEN`")
        if scope == "admin" and token.scope != "admin":
            raise Forbidden(f"the token {token.name} may only read; this needs the scope admin")
        return token

    def _find(self, text: str) -> Token | None:
        """Compare with every token, so that the time depends on none of them."""
        presented, found = digest(text), None
        for token in self._tokens:
            if hmac.compare_digest(presented, token.sha256):
                found = token
        return found
