"""Connections between a host and a gateway in the same network namespace, or in two."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from serving.link import endpoint

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have TCP only")


def family_of_a_connection() -> int:
    """Listen, connect, and return the family of the connection."""
    address, listeners = endpoint.listen("127.0.0.1")
    connection, error = endpoint.connect(address)
    assert error == 0
    (accepted,) = [endpoint.accept(at) for at in listeners if at.family == connection.family]
    for sock in (*listeners, connection, accepted):
        sock.close()
    assert accepted.family == connection.family
    return connection.family


@linux
def test_a_gateway_in_the_network_namespace_of_the_host_does_not_use_tcp() -> None:
    assert family_of_a_connection() == socket.AF_UNIX


@linux
def test_a_gateway_does_not_trust_a_local_socket_of_another_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert family_of_a_connection() == socket.AF_INET


def test_a_gateway_in_another_network_namespace_uses_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "another")
    assert family_of_a_connection() == socket.AF_INET


def test_connecting_to_a_port_where_nobody_listens_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    connection, error = endpoint.connect(f"tcp://127.0.0.1:{port}")
    connection.settimeout(5.0)
    if not error:  # it fails later
        with pytest.raises(OSError, match="refused"):
            connection.recv(1)
    connection.close()
