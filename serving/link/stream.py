"""Sends and receives messages on one connection, without ever blocking; the same at both ends."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

import numpy as np

from serving.link.wire import HEARTBEAT, PREFIX, Buffer, Received, read_prefix

MAX_PARTS: Final = 512
"""Number of buffers that are passed to the kernel at once. Linux accepts 1024."""


class MessageStream:
    """The messages of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a non-blocking connection, which may not be established yet."""
        self._socket = connection
        self._unsent: list[Buffer] = []
        self._prefix = memoryview(bytearray(PREFIX.size))
        self._content: memoryview | None = None
        """Memory for the message of which the prefix has arrived."""
        self._filled = 0
        """Number of bytes that have arrived of the prefix, or of the content if there is one."""
        self.received_bytes = 0
        """Number of bytes that have arrived since the beginning."""

    def fileno(self) -> int:
        """Return the file descriptor of the connection."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not accepted all messages yet; see `flush`."""
        return bool(self._unsent)

    def send(self, message: Sequence[Buffer]) -> None:
        """Send a message, or as much of it as the kernel accepts now.

        The buffers must not change while `has_unsent`. Raises `OSError` if the connection is lost.
        """
        is_busy = self.has_unsent
        self._unsent += message
        if not is_busy:
            self.flush()

    def send_heartbeat(self) -> None:
        """Send a heartbeat, unless a message is being sent. Raises `OSError` as `send` does."""
        if not self._unsent:
            self.send([HEARTBEAT])

    def flush(self) -> None:
        """Send what the kernel accepts now; raises `OSError` if the connection is lost."""
        while self._unsent:
            parts = self._unsent[:MAX_PARTS]
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                return
            for index, part in enumerate(parts):
                if sent < len(part):
                    self._unsent[: index + 1] = [memoryview(part)[sent:]]
                    break
                sent -= len(part)
            else:
                del self._unsent[: len(parts)]

    def receive(self) -> Received | None:
        """Return the next message, or None if it has not arrived completely.

        Raises `OSError` if the connection is lost, `MalformedMessage` if the peer does not follow
        the format. Nothing more can be received after that.
        """
        while True:
            if not self._fill(self._prefix if self._content is None else self._content):
                return None
            header_bytes, size, number, compute_s = read_prefix(self._prefix)
            self._filled = 0
            content, self._content = self._content, None
            if content is not None:
                return Received(header_bytes, number, compute_s, content)
            if not size:
                return None  # a heartbeat: a peer that sends many must not keep the thread busy
            # numpy does not clear the memory, as bytearray would.
            self._content = np.empty(size, np.uint8).data

    def close(self) -> None:
        """Close the connection. The kernel still delivers what it has accepted."""
        self._socket.close()

    def _fill(self, target: memoryview) -> bool:
        """Receive into the memory until it is full; return whether it is."""
        while self._filled < len(target):
            try:
                size = self._socket.recv_into(target[self._filled :])
            except BlockingIOError:
                return False
            if not size:
                raise ConnectionResetError("the peer has closed the connection")
            self.received_bytes += size
            self._filled += size
        return True
