"""Arrival times of bytes that a busy event loop reads late."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import uvloop
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.arrival import MAX_ITERATIONS, RESOLUTION_S, ArrivalClock
from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.admission import CALL_ITERATIONS
from serving.protocol.grpc.inference import INFER
from tests.serving.builders import in_process
from tests.serving.protocol.grpc.calls import HANG_S, infer_request, listening, protocol

BLOCK_S = 0.2
ITERATION_S = 0.02
LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Reader(asyncio.Protocol):
    """Notes when data arrived, by the clock, and when they were read."""

    def __init__(self, clock: ArrivalClock) -> None:
        self._clock = clock
        self.read = asyncio.Event()
        self.arrived = self.read_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._descriptor: int = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self.read_at = time.monotonic()
        self.arrived = self._clock.arrived_at(self._descriptor)
        self.read.set()

    async def next_read(self) -> None:
        await asyncio.wait_for(self.read.wait(), HANG_S)
        self.read.clear()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


@LOOPS
def test_the_time_for_which_the_loop_was_blocked_counts(
    sockets: tuple[socket.socket, socket.socket], loop_factory: LoopFactory
) -> None:
    async def run() -> None:
        reader = Reader(ArrivalClock())
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: reader, sock=sockets[1])
        sockets[0].send(b"x")
        await reader.next_read()
        for _ in range(2):
            sent = time.monotonic()
            sockets[0].send(b"x")
            time.sleep(BLOCK_S)  # the loop cannot read
            await reader.next_read()
            assert reader.read_at - sent >= BLOCK_S
            assert reader.read_at - reader.arrived >= BLOCK_S - 2 * RESOLUTION_S
            # Nothing arrived before it was sent.
            assert reader.arrived >= sent - 2 * RESOLUTION_S
        transport.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


class Iterations:
    """An `ArrivalClock` whose time is the number of the loop's iteration."""

    def __init__(self) -> None:
        self.number = 0
        self.clock = ArrivalClock(lambda: self.number)

    async def next(self, count: int = 1) -> None:
        for _ in range(count):
            self.number += 1
            await asyncio.sleep(0)


async def test_iterations_that_were_followed_count() -> None:
    iterations = Iterations()
    for _ in range(20):
        iterations.clock.arrived_before(1)
        await iterations.next()
    # The clock of this iteration was read before the number of the last one was increased.
    for count in range(1, MAX_ITERATIONS + 1):
        assert iterations.clock.arrived_before(count) == iterations.number - count + 1
    oldest = iterations.clock.arrived_before(MAX_ITERATIONS)
    assert iterations.clock.arrived_before(100) == oldest


async def test_iterations_that_were_not_followed_do_not_count() -> None:
    iterations = Iterations()
    assert iterations.clock.arrived_before(3) == 0
    await iterations.next()
    assert iterations.clock.arrived_before(3) == 0
    await iterations.next(10)  # nothing is read in these
    assert iterations.clock.arrived_before(3) == 11


@LOOPS
def test_the_iterations_before_a_call_has_its_handler_count(loop_factory: LoopFactory) -> None:
    """Each iteration takes long; a call is known to have arrived several of them ago."""
    is_busy = False
    sent: list[float] = []
    arrived: list[tuple[float, float]] = []
    latencies_ms: list[float] = []

    def call_twice(port: int, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer: Any = channel.unary_unary(
                INFER, response_deserializer=pb.ModelInferResponse.FromString
            )
            for _ in range(2):  # the first one opens the connection
                sent.append(time.monotonic())
                response = infer(infer_request().SerializeToString(), timeout=HANG_S)
                latencies_ms.append(response.parameters["latency_ms"].double_param)
        loop.call_soon_threadsafe(done.set)

    async def run() -> None:
        nonlocal is_busy
        loop = asyncio.get_running_loop()
        front_door = FrontDoor(LoadShedder(), on_refused=lambda: None)
        service = protocol(in_process(), front_door=front_door)
        clock = front_door.arrivals
        arrived_before = clock.arrived_before

        def note(iterations: int) -> float:
            result = arrived_before(iterations)
            arrived.append((time.monotonic(), result))
            return result

        def keep_busy() -> None:
            arrived_before(1)  # as other calls do
            time.sleep(ITERATION_S)
            if is_busy:
                loop.call_soon(keep_busy)

        clock.arrived_before = note  # type: ignore[method-assign]
        done = asyncio.Event()
        async with listening(service) as listener:
            is_busy = True
            keep_busy()
            thread = threading.Thread(target=call_twice, args=(listener.port, loop, done))
            thread.start()
            await done.wait()
            thread.join()
            is_busy = False

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
    assert len(arrived) == len(latencies_ms) == 2
    for sent_at, (looked_up_at, arrived_at), latency_ms in zip(
        sent, arrived, latencies_ms, strict=True
    ):
        known_s = looked_up_at - arrived_at
        assert known_s >= (CALL_ITERATIONS - 1) * ITERATION_S
        assert latency_ms >= known_s * 1e3
        assert arrived_at >= sent_at
