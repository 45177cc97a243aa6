"""Pauses reading from a connection while its responses are not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

MAX_PIPELINED: Final = 16
"""Number of requests behind the one that is answered at which reading pauses."""


class PipelineFlowControl(FlowControl):
    """Keeps reading paused while too many requests wait, or the client does not read."""

    def __init__(self, transport: asyncio.Transport, exchanges: Sized) -> None:
        """`exchanges` are the requests without responses, the one that is answered included."""
        super().__init__(transport)
        self._exchanges = exchanges

    @property
    def is_full(self) -> bool:
        """Whether too many requests wait."""
        return len(self._exchanges) > MAX_PIPELINED

    def resume_reading(self) -> None:
        """Called when the application reads more of a body, and after each response."""
        if self.read_paused and not self.write_paused and not self.is_full:
            super().resume_reading()

    def pause_writing(self) -> None:
        """Called when more of the responses waits to be sent than the transport should keep."""
        super().pause_writing()
        self.pause_reading()

    def resume_writing(self) -> None:
        """Called when the client has read most of it."""
        super().resume_writing()
        self.resume_reading()
