"""Tiny HTTP servers on free ports, for clients to be tested against."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Responder = Callable[[int, bytes], bytes | tuple[bytes, bytes] | None]
"""From the number of a request on its connection, and its head, to the bytes of its answer; of two
parts, the second is sent `PAUSE_S` later; None closes the connection."""

PAUSE_S = 0.02


def ok(body: bytes = b"ok", status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tiny_server(answer: Responder) -> Iterator[int]:
    """Serve in threads, one per connection; gives the port."""
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        with connection:
            for number in range(1_000_000):
                head = _request(connection)
                reply = answer(number, head) if head else None
                if reply is None:
                    return
                try:
                    if isinstance(reply, tuple):
                        connection.sendall(reply[0])
                        time.sleep(PAUSE_S)
                        reply = reply[1]
                    connection.sendall(reply)
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            for thread in threads:
                thread.join()


def _request(connection: socket.socket) -> bytes:
    """Read one request; return its head, or nothing where the client has left."""
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            data = connection.recv(65536)
        except OSError:
            return b""
        if not data:
            return b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields.get(b"content-length", 0)) - len(body)
    while missing > 0:
        missing -= len(connection.recv(missing))
    return head
