from __future__ import annotations

import asyncio
import os
import signal
from http.client import HTTPConnection

import pytest

from loadtests.live.fault_injection import Killer
from serving.gateway.description import HostDescription
from tests.service import RunningService, wait_until_ready


class Hosts:
    """Applications whose hosts die when they are killed, and start again once that is asked for.

    Two hosts of `dense`, one of `int8`, and no host of `broken`, which does not answer.
    """

    def __init__(self) -> None:
        self.pids = {"v-dense-g1": [10, 11], "v-int8-g1": [20]}
        self.killed: list[int] = []
        self.starts_again = True

    async def list_apps(self) -> dict[str, list[str]]:
        return {"dense": ["v-dense-g1"], "int8": ["v-int8-g1"], "broken": ["v-broken-g1"]}

    async def describe(self, app: str) -> list[HostDescription]:
        return [HostDescription(f"tcp://{pid}", pid, 0, None) for pid in self.pids[app]]

    def end(self, pid: int) -> None:
        self.killed.append(pid)
        for pids in self.pids.values():
            if pid in pids:
                pids.remove(pid)
                if self.starts_again:
                    pids.append(100 + pid)

    async def is_ready(self, variant: str) -> bool:
        return True


async def test_variants_take_turns_and_so_do_their_hosts() -> None:
    hosts = Hosts()
    killer = Killer(hosts, hosts.is_ready, hosts.end)
    await killer.run(["dense", "int8", "broken"], every_s=0.01, until_s=0.055)
    # Of dense: the first of 10 and 11, the second of 11 and 110, the first of 11 and 210.
    assert hosts.killed == [10, 20, 110, 120, 11]
    assert [kill.variant for kill in killer.kills] == ["dense", "int8", "dense", "int8", "dense"]


async def test_a_host_is_back_once_another_process_has_its_place_and_the_gateway_uses_it() -> None:
    hosts = Hosts()
    asked: list[str] = []

    async def is_ready(variant: str) -> bool:
        asked.append(variant)
        return len(asked) > 2

    killer = Killer(hosts, is_ready, hosts.end)
    await killer.run(["int8"], every_s=0.01, until_s=0.02)
    (before,) = killer.kills
    assert before.back_after_s is None
    await killer.wait_for_hosts()
    (kill,) = killer.kills
    assert kill.back_after_s is not None
    assert asked == ["int8"] * 3


async def test_a_host_that_stays_away_is_not_seen_back() -> None:
    hosts = Hosts()
    hosts.starts_again = False
    killer = Killer(hosts, hosts.is_ready, hosts.end)
    await killer.run(["int8"], every_s=0.01, until_s=0.035)
    await killer.wait_for_hosts(within_s=0.25)
    assert hosts.killed == [20], "there was none left to kill"
    assert [kill.back_after_s for kill in killer.kills] == [None]


async def test_a_dead_host_that_serve_still_names_is_not_back() -> None:
    hosts = Hosts()
    killer = Killer(hosts, hosts.is_ready, end=lambda pid: None)
    await killer.run(["int8"], every_s=0.01, until_s=0.02)
    await killer.wait_for_hosts(within_s=0.25)
    assert [kill.back_after_s for kill in killer.kills] == [None]


@pytest.mark.cluster
async def test_a_host_of_a_real_service_is_killed_and_comes_back(service: RunningService) -> None:
    from serving.cluster.registry import ServeRegistry

    wait_until_ready(service)
    killed: list[int] = []

    def end(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    async def is_ready(variant: str) -> bool:
        return await asyncio.to_thread(_is_ready, service, variant)

    killer = Killer(ServeRegistry(), is_ready, end)
    await killer.run(["int8"], every_s=0.01, until_s=0.02)
    await killer.wait_for_hosts()
    (kill,) = killer.kills
    assert len(killed) == 1
    assert kill.back_after_s is not None
    assert _is_ready(service, "int8")


def _is_ready(service: RunningService, variant: str) -> bool:
    connection = HTTPConnection("127.0.0.1", service.port)
    connection.request("GET", f"/v2/models/{service.catalog.model.name}/versions/{variant}/ready")
    status = connection.getresponse().status
    connection.close()
    return status == 200
