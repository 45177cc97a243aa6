from __future__ import annotations

import socket

import pytest

from serving.link import endpoint


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1"])
def test_a_host_is_reached_over_tcp_at_its_address(bind: str) -> None:
    address, listeners = endpoint.listen(bind)
    for listener in listeners[1:]:  # the local sockets, which a gateway would prefer
        listener.close()
    listeners[0].setblocking(True)
    connection, error = endpoint.connect(address)
    assert error == 0
    with listeners[0], connection, endpoint.accept(listeners[0]) as accepted:
        connection.setblocking(True)
        accepted.setblocking(True)
        connection.sendall(b"x")
        assert accepted.recv(1) == b"x"
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
