"""A whole service for the time of a `with`, driven from a process of its own.

The process that sends requests then has no thread of Ray's, and stays undisturbed while hosts are
killed: the other process does that.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from typing import Any, Final

from loadtests.client.service import connect
from loadtests.live.fault_injection import Kill, Killer
from serving.gateway.description import Ports
from serving.gateway.settings import Settings

STOP_WITHIN_S: Final = 60.0
PROBE_WITHIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _KillHosts:
    every_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class _StopKilling:
    pass


@dataclass(frozen=True, slots=True)
class Running:
    """A service that is ready."""

    url: str
    _pipe: Connection

    def start_killing(self, every_s: float, until_s: float) -> None:
        """Kill one host process every so many seconds, for `until_s`; variants take turns."""
        self._pipe.send(_KillHosts(every_s, until_s))

    def stop_killing(self) -> tuple[Kill, ...]:
        """Wait for the hosts to be back; return every kill.

        Raises `RuntimeError` if the service has ended.
        """
        self._pipe.send(_StopKilling())
        kills: tuple[Kill, ...] = _receive(self._pipe)
        return kills


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """Start Ray and the service that the settings say; stop both in the end.

    Raises `RuntimeError` that says why if it does not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(settings, theirs), name="service")
    process.start()
    theirs.close()
    try:
        answer: Ports | str = _receive(ours)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        yield Running(f"http://127.0.0.1:{answer.http}", ours)
    finally:
        ours.close()  # which tells it to stop
        process.join(STOP_WITHIN_S)
        if process.is_alive():
            process.terminate()
            process.join()


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("the service has ended; what it printed says why") from None


def _run(settings: Settings, pipe: Connection) -> None:
    from serving.cluster.environment import set_environment

    os.dup2(2, 1)  # Ray prints what its processes say; stdout is for results
    set_environment()  # before ray is imported
    from serving.cluster.start import (
        NotStarted,
        cpus_needed,
        local_cluster,
        served_variants,
        start_service,
    )

    try:
        with local_cluster(cpus_needed(settings, len(served_variants(settings)))):
            ports = start_service(settings)
            pipe.send(ports)
            asyncio.run(_obey(pipe, ports.http))
    except NotStarted as error:
        pipe.send(str(error))


async def _obey(pipe: Connection, port: int) -> None:
    """Do what the other end says, until it is closed."""
    from serving.cluster.registry import ServeRegistry

    metadata = connect(f"http://127.0.0.1:{port}").metadata

    async def is_ready(variant: str) -> bool:
        path = f"/v2/models/{metadata['name']}/versions/{variant}/ready"
        return await asyncio.to_thread(_is_ok, port, path)

    killer = Killer(ServeRegistry(), is_ready)
    killing: asyncio.Task[None] | None = None
    while True:
        try:
            command = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        match command:
            case _KillHosts(every_s, until_s):
                run = killer.run(metadata["versions"], every_s, until_s)
                killing = asyncio.create_task(run)
            case _StopKilling():
                if killing is not None:
                    killing.cancel()
                    with suppress(asyncio.CancelledError):
                        await killing
                await killer.wait_for_hosts()
                pipe.send(killer.kills)


def _is_ok(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=PROBE_WITHIN_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
