"""Where a host listens, and how a gateway connects to it.

A host listens on TCP and, on Linux, on a Unix domain socket in the abstract namespace that is named
after its address. A gateway that finds this socket is in the same network namespace as the host,
and uses it: a message takes less CPU time than over TCP on loopback.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Final

from serving.link.liveness import SILENCE_MS

BACKLOG: Final = 128
"""Number of connections that may wait to be accepted."""

LOCAL_BUFFER_BYTES: Final = 2**21
"""Size of the send buffer of a Unix domain socket, in bytes. Linux may limit it (`wmem_max`)."""

_CREDENTIALS: Final = struct.Struct("3i")


def listen(bind: str) -> tuple[str, list[socket.socket]]:
    """Listen on a free port of the address `bind`; return the address for gateways.

    Raises `OSError` if that is not possible.
    """
    listeners = [socket.create_server((bind, 0), family=_family(bind), backlog=BACKLOG)]
    address = f"tcp://{bind}:{listeners[0].getsockname()[1]}"
    if sys.platform == "linux":
        local = socket.socket(socket.AF_UNIX)
        local.bind(_local_name(address))
        local.listen(BACKLOG)
        listeners.append(local)
    for listener in listeners:
        listener.setblocking(False)
    return address, listeners


def accept(listener: socket.socket) -> socket.socket:
    """Accept a connection; raises `BlockingIOError` if none is waiting."""
    connection, _ = listener.accept()
    _configure(connection)
    if sys.platform == "linux" and connection.family != socket.AF_UNIX:
        # The kernel closes a connection on which nothing is acknowledged for so long.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
    return connection


def connect(address: str) -> tuple[socket.socket, int]:
    """Begin to connect to the address of a host.

    Returns the connection, and the error number if it failed at once, otherwise 0.
    """
    if sys.platform == "linux":
        connection = socket.socket(socket.AF_UNIX)
        _configure(connection)
        if connection.connect_ex(_local_name(address)) == 0 and _is_own(connection):
            return connection, 0
        connection.close()
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.socket(_family(host))
    _configure(connection)
    error = connection.connect_ex((host, int(port)))
    return connection, 0 if error == errno.EINPROGRESS else error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _local_name(address: str) -> str:
    return f"\0paretoserve {address}"


def _is_own(connection: socket.socket) -> bool:
    """Return whether a process of the same user listens: anyone may use a name that is free."""
    if sys.platform != "linux":
        return False
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())


def _configure(connection: socket.socket) -> None:
    connection.setblocking(False)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOCAL_BUFFER_BYTES)
