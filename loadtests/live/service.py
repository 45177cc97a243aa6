"""Runs a complete service inside a `with` block, in a separate process.

The process that sends requests therefore has no threads of Ray and is not disturbed while hosts
are killed: the process of the service kills them.
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
from loadtests.live.fault_injection import HostKill, HostKiller, list_ready_hosts
from serving.gateway.description import Ports
from serving.gateway.settings import Settings

STOP_TIMEOUT_S: Final = 60.0
"""Time allowed for the service to stop before its process is terminated, in seconds."""
PROBE_TIMEOUT_S: Final = 1.0
"""Time allowed for the response to a readiness probe, in seconds."""


@dataclass(frozen=True, slots=True)
class _StartKilling:
    every_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class _StopKilling:
    pass


@dataclass(frozen=True, slots=True)
class _ListHosts:
    pass


@dataclass(frozen=True, slots=True)
class LiveService:
    """A service that is ready."""

    url: str
    _pipe: Connection

    def start_killing(self, every_s: float, until_s: float) -> None:
        """Kill one host process every `every_s` seconds before `until_s`; variants rotate."""
        self._pipe.send(_StartKilling(every_s, until_s))

    def stop_killing(self) -> tuple[HostKill, ...]:
        """Wait until the killed hosts are back; return every kill.

        Raises RuntimeError if the service has ended.
        """
        self._pipe.send(_StopKilling())
        kills: tuple[HostKill, ...] = _receive(self._pipe)
        return kills

    def list_hosts(self) -> dict[str, tuple[int, ...]]:
        """Wait until every variant is ready; return the processes of its hosts by variant.

        Raises RuntimeError if the service has ended, or if a variant does not become ready.
        """
        self._pipe.send(_ListHosts())
        hosts: dict[str, tuple[int, ...]] | str = _receive(self._pipe)
        if isinstance(hosts, str):
            raise RuntimeError(hosts)
        return hosts


@contextmanager
def run_service(settings: Settings) -> Iterator[LiveService]:
    """Start Ray and a service with these settings; stop both on exit.

    Raises RuntimeError with the reason if the service does not start.
    """
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_run, args=(settings, child_end), name="service")
    process.start()
    child_end.close()
    try:
        result: Ports | str = _receive(parent_end)
        if isinstance(result, str):
            raise RuntimeError(result)
        yield LiveService(f"http://127.0.0.1:{result.http}", parent_end)
    finally:
        parent_end.close()  # signals the service to stop
        process.join(STOP_TIMEOUT_S)
        if process.is_alive():
            process.terminate()
            process.join()


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("the service has ended; its output gives the reason") from None


def _run(settings: Settings, pipe: Connection) -> None:
    from serving.cluster.environment import set_environment

    os.dup2(2, 1)  # Ray prints the output of its processes; stdout is reserved for results
    set_environment()  # before ray is imported
    from serving.cluster.start import local_cluster, start_service
    from serving.cluster.start_failure import NotStarted

    try:
        with local_cluster():
            ports = start_service(settings)
            pipe.send(ports)
            asyncio.run(_handle_commands(pipe, ports.http))
    except NotStarted as error:
        pipe.send(str(error))


async def _handle_commands(pipe: Connection, port: int) -> None:
    """Execute the commands received through the pipe until the other end closes it."""
    from serving.cluster.registry import ServeRegistry

    metadata = connect(f"http://127.0.0.1:{port}").metadata

    async def is_ready(variant: str) -> bool:
        path = f"/v2/models/{metadata['name']}/versions/{variant}/ready"
        return await asyncio.to_thread(_is_ok, port, path)

    registry = ServeRegistry()
    killer = HostKiller(registry, is_ready)
    killing: asyncio.Task[None] | None = None
    while True:
        try:
            command = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        match command:
            case _StartKilling(every_s, until_s):
                run = killer.run(metadata["versions"], every_s, until_s)
                killing = asyncio.create_task(run)
            case _StopKilling():
                if killing is not None:
                    killing.cancel()
                    with suppress(asyncio.CancelledError):
                        await killing
                await killer.wait_for_hosts()
                pipe.send(killer.kills)
            case _ListHosts():
                try:
                    pipe.send(await list_ready_hosts(registry, is_ready, metadata["versions"]))
                except TimeoutError as error:
                    pipe.send(str(error))


def _is_ok(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
