"""The refusal of an inference request before it is parsed: a fixed response.

It costs a small part of an answer.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from serving.dataplane.refusal_pacer import MAX_HOLD_S
from serving.protocol.front_door import REFUSAL
from serving.protocol.http.response import render, status_response

_REFUSAL: Final = status_response(
    HTTPStatus.TOO_MANY_REQUESTS, REFUSAL, headers=[(b"retry-after", b"%d" % MAX_HOLD_S)]
)

REFUSALS: Final = {
    keeps_alive: render(_REFUSAL, keeps_alive=keeps_alive) for keeps_alive in (False, True)
}
"""The response to a refused request, by whether the connection stays open."""
