"""A job as a stream of server-sent events (WHATWG HTML, section 9.2).

    event: job   the job, whenever it has changed
    event: log   a line of its log

The id of an event is the number of the last line of the log before it, so that a client that
connects again with `Last-Event-ID` gets the lines that it has missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import orjson
from starlette.responses import StreamingResponse

from serving.control.api.overview import Overview
from serving.control.api.threads import BlockingCalls
from serving.control.state import ENDED, Job
from serving.errors import Overloaded, ServingError

MAX_STREAMS: Final = 32
"""Maximum number of open streams of one gateway."""

PING_S: Final = 10.0
"""Seconds without an event after which a comment is sent, which shows that the stream is alive."""

RETRY_MS: Final = 1000
"""Time after which a client should connect again."""


class Streams:
    """The open streams of a gateway."""

    def __init__(
        self,
        overview: Overview,
        call: BlockingCalls,
        poll_s: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Look for changes every `poll_s` seconds, until `is_stopping`."""
        self._overview = overview
        self._call = call
        self._poll_s = poll_s
        self._is_stopping = is_stopping
        self._open = 0

    async def response(self, job_id: str, after: int) -> StreamingResponse:
        """Return a stream that begins with the job and the log after this line.

        Raises `ModelNotFound` if there is no such job, `Overloaded` if too many streams are open.
        """
        job = await self._call(self._overview.job, job_id)
        if self._open >= MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} event streams are open already; close one, or poll")
        return _CountedResponse(
            self._count,
            self._events(job, after),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    def _count(self, change: int) -> None:
        self._open += change

    async def _events(self, job: Job, line: int) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n".encode() + _event("job", line, job.model_dump(mode="json"))
        silent_s = 0.0
        while not self._is_stopping():
            try:
                # The log is complete if it is read after the end of the job.
                now = await self._call(self._overview.job, job.id)
                log = await self._call(self._overview.log, job.id, line)
            except ServingError as error:
                yield f": {error}\n\n".encode()
                return
            for each in log.lines:
                line = each.number
                yield _event("log", line, each.model_dump(mode="json"))
            if now != job:
                job = now
                yield _event("job", line, job.model_dump(mode="json"))
            if job.status in ENDED:
                return
            is_silent = not log.lines and now == job
            silent_s = silent_s + self._poll_s if is_silent else 0.0
            if silent_s >= PING_S:
                silent_s = 0.0
                yield b": ping\n\n"
            await asyncio.sleep(self._poll_s)


class _CountedResponse(StreamingResponse):
    """A response that counts as open while it is sent."""

    def __init__(self, count: Callable[[int], None], *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._count = count

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._count(1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count(-1)


def _event(kind: str, identifier: int, data: Any) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (kind.encode(), identifier, orjson.dumps(data))
