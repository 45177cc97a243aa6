"""The connections of a host to its gateways.

The compute thread receives batches and sends answers here. It never waits for a gateway: another
thread, `link`, accepts connections, sends heartbeats, and sends what is left of an answer when the
kernel does not accept it at once.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final

from serving.link.endpoint import accept, listen
from serving.link.liveness import HEARTBEAT_MS
from serving.link.stream import MessageStream
from serving.link.wire import Buffer, MalformedMessage, Received

logger = logging.getLogger(__name__)

ACCEPT_RETRY_S: Final = 0.1
"""Pause, in seconds, after a connection could not be accepted, for lack of descriptors perhaps."""

LINGER_S: Final = 1.0
"""Time, in seconds, for the rest of the answers when a host closes."""


class Gateways:
    """All gateways that are connected to a host."""

    def __init__(self, bind: str) -> None:
        """Listen on a free port of the address `bind` and start the thread `link`."""
        self.address, self._listeners = listen(bind)
        self._streams: set[MessageStream] = set()
        self._unsent: set[MessageStream] = set()
        """Streams of which the thread `link` sends the rest."""
        self._lock = threading.Lock()
        """Protects both sets, and the streams against two threads that send."""
        self._compute_wake, self._link_wake = socket.socketpair()
        """What is sent into one of them wakes the thread of the other one."""
        self._incoming = selectors.DefaultSelector()
        self._incoming.register(self._compute_wake, selectors.EVENT_READ)
        self._attended = selectors.DefaultSelector()
        self._attended.register(self._link_wake, selectors.EVENT_READ)
        for listener in self._listeners:
            self._attended.register(listener, selectors.EVENT_READ)
        self._closes_at: float | None = None
        self._thread = threading.Thread(target=self._attend, name="link", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the thread `link` runs."""
        return self._thread.is_alive()

    def wait(self) -> list[MessageStream]:
        """Wait for gateways that have sent something and return their streams, each once.

        After `stop`, the list is empty.
        """
        streams = [key.data for key, _ in self._incoming.select()]
        return [] if None in streams else streams

    def receive(self, stream: MessageStream) -> Received | None:
        """Return one message, or None if the rest is missing or the gateway left."""
        try:
            return stream.receive()
        except OSError:
            self._drop(stream)
        except MalformedMessage as error:
            logger.error("disconnected a peer that is not a gateway", extra={"cause": str(error)})
            self._drop(stream)
        return None

    def send(self, stream: MessageStream, answer: Sequence[Buffer]) -> None:
        """Send an answer."""
        with self._lock:
            try:
                stream.send(answer)
            except OSError:
                return  # `receive` will find the connection closed
            if stream.has_unsent and stream not in self._unsent:
                self._unsent.add(stream)
                self._attended.register(stream, selectors.EVENT_WRITE, stream)

    def stop(self) -> None:
        """Make `wait` return an empty list from now on. Any thread may call this."""
        self._link_wake.send(b"\0")

    def close(self) -> None:
        """Send what is left of the answers for up to `LINGER_S`, then close all connections.

        No thread may call the other methods meanwhile.
        """
        self._closes_at = time.monotonic() + LINGER_S
        self._compute_wake.send(b"\0")
        self._thread.join()
        for stream in self._streams:
            stream.close()
        for selector in (self._incoming, self._attended):
            selector.close()
        for sock in (*self._listeners, self._compute_wake, self._link_wake):
            sock.close()

    def _attend(self) -> None:
        """Attend to the gateways until `close`; runs on the thread `link`."""
        beats_at = time.monotonic()
        while self._closes_at is None or (self._unsent and time.monotonic() < self._closes_at):
            for key, _ in self._attended.select(max(0.0, beats_at - time.monotonic())):
                if key.fileobj in self._listeners:
                    self._accept(key.fileobj)
                elif key.data is not None:
                    self._send_rest(key.data)
                else:
                    self._attended.unregister(self._link_wake)
            if time.monotonic() >= beats_at:
                self._send_heartbeats()
                beats_at = time.monotonic() + HEARTBEAT_MS / 1e3

    def _accept(self, listener: socket.socket) -> None:
        try:
            stream = MessageStream(accept(listener))
        except BlockingIOError:
            return  # it was closed meanwhile
        except OSError:
            logger.exception("a connection cannot be accepted")
            time.sleep(ACCEPT_RETRY_S)
            return
        with self._lock:
            self._streams.add(stream)
        self._incoming.register(stream, selectors.EVENT_READ, stream)

    def _send_rest(self, stream: MessageStream) -> None:
        with self._lock:
            if stream in self._unsent and not _is_left(stream):
                self._forget_unsent(stream)

    def _send_heartbeats(self) -> None:
        with self._lock:
            for stream in self._streams:
                with contextlib.suppress(OSError):  # `receive` will find the connection closed
                    stream.send_heartbeat()

    def _drop(self, stream: MessageStream) -> None:
        """Close the connection of a gateway; called by the compute thread only."""
        with self._lock:
            self._streams.discard(stream)
            if stream in self._unsent:
                self._forget_unsent(stream)
            self._incoming.unregister(stream)
            stream.close()

    def _forget_unsent(self, stream: MessageStream) -> None:
        self._unsent.discard(stream)
        self._attended.unregister(stream)


def _is_left(stream: MessageStream) -> bool:
    """Send the rest of the answers; return whether some is left that can still be sent."""
    try:
        stream.flush()
    except OSError:
        return False
    return stream.has_unsent
