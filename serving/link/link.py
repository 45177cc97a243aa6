"""The wire between gateway and host: one ZeroMQ message per batch, raw tensors, never a pickle.

    gateway  HostConnection (DEALER)  ──[header, buffer, ...]──▶  HostSocket (ROUTER)  host
                                      ◀──[header, buffer, ...]──

A header is JSON: {"id", "tensors": [[name, datatype, shape], ...]}; an answer has "compute_s" too,
or "error" and no tensors. A host that gets nonsense answers with an error, and lives.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import HostLost
from variants.catalog.datatype import DATATYPE, NUMPY
from variants.catalog.raw import from_raw, to_raw

logger = logging.getLogger(__name__)

HEARTBEAT_MS: Final = 500
SILENCE_MS: Final = 2000
"""A peer that is silent for so long is gone."""

MAX_MESSAGE_BYTES: Final = 2**30

BATCH_TIMEOUT_S: Final = 30.0
"""A host that holds a batch for so long is as good as gone, whatever its heart says."""

STOP_POLL_MS: Final = 200


class BadFrames(ValueError):
    """A message is not what this module writes."""


class BatchFailed(Exception):
    """The host answered with an error: the batch is at fault, or the variant."""


@dataclass(frozen=True, slots=True)
class Result:
    """A batch's outputs, and the seconds that the host computed."""

    outputs: Arrays
    compute_s: float


def pack(tensors: Arrays, **fields: Any) -> list[bytes | memoryview]:
    """Return the frames of a message: its header, then each tensor as `to_raw` gives it."""
    described = [[name, DATATYPE[array.dtype], array.shape] for name, array in tensors.items()]
    header = orjson.dumps({**fields, "tensors": described})
    return [header, *map(to_raw, tensors.values())]


def unpack(frames: Sequence[zmq.Frame]) -> tuple[dict[str, Any], Arrays]:
    """Return the header and the tensors of a message, as views of its frames where they can be.

    Raises `BadFrames` if it is not a message of `pack`.
    """
    if not frames:
        raise BadFrames("a message without a header")
    try:
        header = orjson.loads(frames[0].buffer)
        if not isinstance(header["id"], int):
            raise TypeError("an id that is no number")
        described = [
            (str(name), NUMPY[datatype], tuple(int(size) for size in shape))
            for name, datatype, shape in header["tensors"]
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadFrames(f"a header that cannot be read: {error!r:.200}") from error
    if len(described) != len(frames) - 1:
        raise BadFrames(f"{len(described)} tensors in {len(frames) - 1} buffers")
    tensors = {}
    for (name, dtype, shape), frame in zip(described, frames[1:], strict=True):
        if min(shape, default=0) < 0:
            raise BadFrames(f"{name!r:.100} of shape {shape!s:.100}")
        try:
            tensors[name] = from_raw(frame.buffer, dtype, shape)
        except ValueError as error:
            raise BadFrames(f"{name!r:.100}: {error!s:.200}") from error
    return header, tensors


class HostSocket:
    """The host's end: runs the batches of all gateways, one after the other, on its own thread."""

    def __init__(self, run: Callable[[Arrays], Arrays], bind: str = "127.0.0.1") -> None:
        self._run = run
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        _configure(self._socket)
        port = self._socket.bind_to_random_port(f"tcp://{bind}")
        self.address = f"tcp://{bind}:{port}"
        self._last_batch_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False if the thread has died, which it never should."""
        return self._thread.is_alive()

    def drain(self, quiet_s: float, within_s: float) -> None:
        """Return once no batch has come for `quiet_s`, or `within_s` are over."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < min(self._last_batch_at + quiet_s, deadline):
            time.sleep(0.02)

    def close(self) -> None:
        """Finish the batch in hand, then stop."""
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=1000)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(STOP_POLL_MS):
                identity, *frames = self._socket.recv_multipart(copy=False)
                self._last_batch_at = time.monotonic()
                self._socket.send_multipart([identity, *self._answer(frames)], copy=False)

    def _answer(self, frames: Sequence[zmq.Frame]) -> list[bytes | memoryview]:
        number = 0  # which no gateway gives to a batch
        try:
            header, inputs = unpack(frames)
            number = header["id"]
            start = time.perf_counter()
            outputs = self._run(inputs)
            return pack(outputs, id=number, compute_s=time.perf_counter() - start)
        except BadFrames as error:
            logger.error("a message was not understood", extra={"cause": str(error)})
            return pack({}, id=number, error=f"the message was not understood: {error}")
        except Exception as error:
            logger.exception("a batch failed")
            return pack({}, id=number, error=f"the batch failed: {type(error).__name__}")


class HostConnection:
    """A gateway's end of the link to one host replica."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, on_lost: Callable[[], None]
    ) -> None:
        """Connect; `on_lost` is called once, when the host is gone."""
        self.address = address
        self.is_lost = False
        self._on_lost = on_lost
        self._answers: dict[int, asyncio.Future[Result]] = {}
        self._number = 0
        self._socket = context.socket(zmq.DEALER)
        _configure(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    @property
    def in_flight(self) -> int:
        """How many batches the host holds."""
        return len(self._answers)

    async def run(self, inputs: Arrays) -> Result:
        """Have the host run one batch.

        Raises `HostLost` if it goes or stays silent, `BatchFailed` if it answers with an error.
        """
        if self.is_lost:
            raise HostLost(self.address)
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        answer: asyncio.Future[Result] = loop.create_future()
        self._answers[number] = answer
        timeout = loop.call_later(BATCH_TIMEOUT_S, self._lose)
        try:
            await self._socket.send_multipart(pack(inputs, id=number), copy=False)
            return await answer
        finally:
            timeout.cancel()
            self._answers.pop(number, None)

    def close(self) -> None:
        """Let go of the host, whatever it holds, without a call of `on_lost`."""
        if self.is_lost:
            return
        self.is_lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(HostLost(self.address))
        for task in self._tasks:
            task.cancel()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _lose(self) -> None:
        if self.is_lost:
            return
        self.close()
        self._on_lost()

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            try:
                header, outputs = unpack(frames)
                self._resolve(header, outputs)
            except (TypeError, ValueError) as error:
                logger.error(
                    "a host answered nonsense", extra={"host": self.address, "cause": str(error)}
                )
                self._lose()
                return

    def _resolve(self, header: Mapping[str, Any], outputs: Arrays) -> None:
        answer = self._answers.get(header["id"])
        if answer is None or answer.done():
            return  # whoever waited for it has given up
        if "error" in header:
            answer.set_exception(BatchFailed(str(header["error"])))
        else:
            answer.set_result(Result(outputs, float(header.get("compute_s", 0.0))))

    async def _watch(self) -> None:
        await recv_monitor_message(self._monitor)
        self._lose()


class HostPool:
    """The live replicas of every variant, as one gateway sees them."""

    def __init__(self, on_change: Callable[[str, int], None]) -> None:
        """`on_change` is told a variant and how many live replicas it has now."""
        self._on_change = on_change
        self._hosts: dict[str, list[HostConnection]] = {}

    def hosts(self, variant: str) -> list[HostConnection]:
        """Return the live replicas of a variant."""
        return list(self._hosts.get(variant, ()))

    def add(self, variant: str, host: HostConnection) -> None:
        """Send batches to this replica from now on."""
        self._hosts.setdefault(variant, []).append(host)
        self._on_change(variant, len(self._hosts[variant]))

    def remove(self, variant: str, host: HostConnection) -> bool:
        """Send it no more, though it may finish what it holds; return whether it was in use."""
        hosts = self._hosts.get(variant, [])
        if host not in hosts:
            return False
        hosts.remove(host)
        self._on_change(variant, len(hosts))
        return True

    async def run(self, variant: str, inputs: Arrays) -> Result:
        """Run one batch on the least loaded replica; raises as `HostConnection.run`."""
        hosts = self._hosts.get(variant)
        if not hosts:
            raise HostLost(variant)
        return await min(hosts, key=lambda host: host.in_flight).run(inputs)


def _configure(socket: zmq.Socket[Any]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
