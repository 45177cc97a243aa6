"""Small HTTP servers on free ports, for tests of clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Responder = Callable[[int, bytes], bytes | tuple[bytes, bytes] | None]
"""Maps the number of a request on its connection, and its head, to the bytes of the response.

The second of two parts is sent after `PAUSE_S`. None closes the connection.
"""

PAUSE_S = 0.02
"""Time between the two parts of a response, in seconds."""


def ok(body: bytes = b"ok", status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@contextmanager
def tiny_server(respond: Responder) -> Iterator[int]:
    """Run a server with one thread per connection; yields the port."""
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            for number in range(1_000_000):
                head = _read_request(connection)
                response = respond(number, head) if head else None
                if response is None:
                    return
                try:
                    if isinstance(response, tuple):
                        connection.sendall(response[0])
                        time.sleep(PAUSE_S)
                        response = response[1]
                    connection.sendall(response)
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=serve, args=(connection,)))
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


def _read_request(connection: socket.socket) -> bytes:
    """Read one request and return its head; empty if the client has closed the connection."""
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
