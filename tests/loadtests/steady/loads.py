"""Loads on small servers, for tests of the client."""

from __future__ import annotations

from typing import Any

from loadtests.client.http import build_post_request
from loadtests.steady.load import Load

REQUEST = build_post_request("/x", b"body", {})


def load(port: int, seconds: float = 0.2, **fields: Any) -> Load:
    return Load("127.0.0.1", port, (REQUEST,), seconds, is_real_time=False, **fields)
