"""How each end of the link notices that the other one is gone without closing the connection.

A host sends a heartbeat to every gateway at a fixed interval, from a thread that does not compute.
A gateway considers a host lost that sends nothing for too long. A host leaves it to the kernel to
close a connection whose gateway does not acknowledge what it was sent.
"""

from __future__ import annotations

import os
from typing import Final

HEARTBEAT_MS: Final = 500
"""Interval between the heartbeats of a host, in milliseconds."""

SILENCE_VARIABLE: Final = "PARETOSERVE_LINK_SILENCE_MS"


def _silence_ms() -> int:
    text = os.environ.get(SILENCE_VARIABLE, "2000")
    if not text.isdecimal() or int(text) <= HEARTBEAT_MS:
        raise ValueError(f"{SILENCE_VARIABLE} must be an integer above {HEARTBEAT_MS}, not {text}")
    return int(text)


SILENCE_MS: Final = _silence_ms()
"""Time without a byte from a host, or without an acknowledgement from a gateway over TCP, in
milliseconds, after which the peer is considered lost.

A machine that stops processes for longer needs more.
"""
