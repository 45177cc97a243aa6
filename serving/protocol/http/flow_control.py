"""Pauses reading from a connection while too many of its requests wait for their responses."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

MAX_PIPELINED: Final = 16
"""Number of pipelined requests in the queue at which reading from the connection pauses."""


class PipelineFlowControl(FlowControl):
    """Keeps reading paused while the pipeline is full."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Called when the application reads more of a body, and after each response."""
        if self.read_paused and len(self._pipeline) < MAX_PIPELINED:
            super().resume_reading()
