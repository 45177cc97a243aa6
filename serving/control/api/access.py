"""Who may call: tokens on the event loop of a gateway, and the audit of failed attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.control.api.threads import BlockingCalls
from serving.control.state import Scope
from serving.control.store.store import Store
from serving.control.tokens import Authorizer, Token
from serving.protocol.control import Caller

UNKNOWN_ACTOR: Final = "unknown"
"""Actor of a failed attempt in the history."""


class Access:
    """Checks the tokens of callers. All methods are called on the event loop."""

    def __init__(self, tokens: Sequence[Token], store: Store, call: BlockingCalls) -> None:
        """Failed attempts are recorded in the history.

        Raises `ValueError` if two tokens have the same name.
        """
        self._store = store
        self._call = call
        self._authorizer = Authorizer(tokens, on_failure=self._record)

    def authorize(self, caller: Caller, scope: Scope) -> str:
        """Return the name of the caller's token.

        Raises `Unauthorized`, `Forbidden`, or `Overloaded` after too many failed attempts.
        """
        return self._authorizer.require(caller.authorization, scope, caller.address).name

    def check_inference(self, caller: Caller) -> None:
        """Raise, as `authorize` does, unless the caller has a token of any scope."""
        self.authorize(caller, "read")

    def _record(self, address: str) -> None:
        self._call.later(self._store.record, UNKNOWN_ACTOR, "login failed", address)
