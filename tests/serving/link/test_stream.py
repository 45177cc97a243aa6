from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from serving.link.stream import MAX_PARTS, MessageStream
from serving.link.wire import HEARTBEAT, MalformedMessage, Received, pack, unpack

Ends = tuple[MessageStream, MessageStream]


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def ends(sockets: tuple[socket.socket, socket.socket]) -> Ends:
    one, other = sockets
    return MessageStream(one), MessageStream(other)


def receive_all(sender: MessageStream, receiver: MessageStream, count: int) -> list[Received]:
    messages: list[Received] = []
    while len(messages) < count:
        sender.flush()
        message = receiver.receive()
        if message is not None:
            messages.append(message)
    return messages


def numbered(number: int, size: int) -> list[bytes | memoryview]:
    return pack(number, {"x": np.full(size, number % 251, np.uint8)})


def test_messages_of_any_size_arrive_in_order(ends: Ends) -> None:
    sender, receiver = ends
    sizes = [1, 3_000_000, 0, 70_000, 5_000_000, 17]
    for number, size in enumerate(sizes, 1):
        sender.send(numbered(number, size))
    assert sender.has_unsent
    for number, message in enumerate(receive_all(sender, receiver, len(sizes)), 1):
        assert message.number == number
        expected = np.full(sizes[number - 1], number, np.uint8)
        np.testing.assert_array_equal(unpack(message).tensors["x"], expected)
    assert not sender.has_unsent
    assert receiver.receive() is None


def test_a_message_of_many_buffers_arrives(ends: Ends) -> None:
    sender, receiver = ends
    # Twice as many as the kernel accepts at once.
    inputs = {str(name): np.full(10_000, name, np.int16) for name in range(4 * MAX_PARTS)}
    sender.send(pack(1, inputs))
    (message,) = receive_all(sender, receiver, 1)
    for name, array in unpack(message).tensors.items():
        np.testing.assert_array_equal(array, inputs[name])


def test_a_message_may_arrive_byte_by_byte(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    end, receiver = sockets[0], MessageStream(sockets[1])
    sent = HEARTBEAT + b"".join(pack(7, {"x": np.arange(3)}))
    for index in range(len(sent)):
        assert receiver.receive() is None
        end.send(sent[index : index + 1])
    message = receiver.receive()
    assert message is not None
    assert unpack(message).tensors["x"].tolist() == [0, 1, 2]
    assert receiver.received_bytes == len(sent)


def test_heartbeats_are_not_messages_and_do_not_interrupt_one(ends: Ends) -> None:
    sender, receiver = ends
    sender.send_heartbeat()
    assert receiver.receive() is None
    assert receiver.received_bytes == len(HEARTBEAT)
    large = pack(1, {"x": np.arange(1_000_000)})
    sender.send(large)
    assert sender.has_unsent
    sender.send_heartbeat()
    (message,) = receive_all(sender, receiver, 1)
    assert unpack(message).tensors["x"].sum() == 499_999_500_000
    assert receiver.received_bytes == len(HEARTBEAT) + sum(map(len, large))


def test_many_heartbeats_do_not_keep_the_receiver_busy(ends: Ends) -> None:
    sender, receiver = ends
    for _ in range(10):
        sender.send([HEARTBEAT])
    assert receiver.receive() is None
    assert receiver.received_bytes == len(HEARTBEAT)


def test_a_connection_that_the_peer_has_closed_raises(ends: Ends) -> None:
    sender, receiver = ends
    sender.send(numbered(1, 10))
    sender.close()
    assert receiver.receive() is not None
    with pytest.raises(ConnectionError):
        receiver.receive()
    with pytest.raises(ConnectionError):
        receiver.send(numbered(2, 10))


def test_bytes_that_are_no_message_are_refused(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    sockets[0].send(b"GET / HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n")
    with pytest.raises(MalformedMessage):
        MessageStream(sockets[1]).receive()
