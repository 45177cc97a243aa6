"""The refusal of an inference request before it is parsed: the same response each time.

It costs a small part of an answer.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from serving.dataplane.refusal_pacer import MAX_HOLD_S
from serving.protocol.front_door import REFUSAL
from serving.protocol.http.response import status_response

REFUSED: Final = status_response(
    HTTPStatus.TOO_MANY_REQUESTS, REFUSAL, headers=[(b"retry-after", b"%d" % MAX_HOLD_S)]
)
