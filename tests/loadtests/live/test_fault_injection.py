from __future__ import annotations

import asyncio
import os
import signal
from http.client import HTTPConnection

import pytest

from loadtests.live.fault_injection import HostKiller, list_ready_hosts
from serving.gateway.description import HostDescription
from tests.service import RunningService
from tests.waiting import GIVE_UP_S
from variants.catalog.device import PROVIDERS


class Hosts:
    """A fake registry. `kill` removes a host and, if `restarts`, starts another in its place.

    It has two hosts of `dense`, one of `int8`, and an application `broken` that does not answer.
    """

    def __init__(self) -> None:
        self.pids = {"v-dense-g1": [10, 11], "v-int8-g1": [20]}
        self.killed: list[int] = []
        self.restarts = True

    async def list_apps(self) -> dict[tuple[str, int], str]:
        return {(name, 1): f"v-{name}-g1" for name in ("dense", "int8", "broken")}

    async def describe(self, app: str) -> list[HostDescription]:
        return [
            HostDescription(f"tcp://{pid}", pid, 0, None, PROVIDERS["cpu"], "", True)
            for pid in self.pids[app]
        ]

    async def failure(self, app: str) -> str | None:
        return None

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        for pids in self.pids.values():
            if pid in pids:
                pids.remove(pid)
                if self.restarts:
                    pids.append(100 + pid)

    async def is_ready(self, variant: str) -> bool:
        return True


async def test_variants_and_their_hosts_are_killed_in_rotation() -> None:
    hosts = Hosts()
    killer = HostKiller(hosts, hosts.is_ready, hosts.kill)
    await killer.run(["dense", "int8", "broken"], every_s=0.01, until_s=0.055)
    # Hosts of dense: the first of 10 and 11, the second of 11 and 110, the first of 11 and 210.
    assert hosts.killed == [10, 20, 110, 120, 11]
    assert [kill.variant for kill in killer.kills] == ["dense", "int8", "dense", "int8", "dense"]


async def test_a_host_is_back_when_a_new_process_runs_and_the_gateway_is_ready() -> None:
    hosts = Hosts()
    probed: list[str] = []

    async def is_ready(variant: str) -> bool:
        probed.append(variant)
        return len(probed) > 2

    killer = HostKiller(hosts, is_ready, hosts.kill)
    await killer.run(["int8"], every_s=0.01, until_s=0.02)
    (before,) = killer.kills
    assert before.back_after_s is None
    await killer.wait_for_hosts()
    (kill,) = killer.kills
    assert kill.back_after_s is not None
    assert probed == ["int8"] * 3


async def test_a_host_that_does_not_restart_has_no_recovery_time() -> None:
    hosts = Hosts()
    hosts.restarts = False
    killer = HostKiller(hosts, hosts.is_ready, hosts.kill)
    await killer.run(["int8"], every_s=0.01, until_s=0.035)
    await killer.wait_for_hosts(timeout_s=0.25)
    assert hosts.killed == [20], "no host was left to kill"
    assert [kill.back_after_s for kill in killer.kills] == [None]


async def test_a_dead_host_that_serve_still_lists_is_not_back() -> None:
    hosts = Hosts()
    killer = HostKiller(hosts, hosts.is_ready, kill=lambda pid: None)
    await killer.run(["int8"], every_s=0.01, until_s=0.02)
    await killer.wait_for_hosts(timeout_s=0.25)
    assert [kill.back_after_s for kill in killer.kills] == [None]


@pytest.mark.cluster
async def test_a_host_of_a_real_service_is_killed_and_comes_back(service: RunningService) -> None:
    from serving.cluster.registry import ServeRegistry

    killed: list[int] = []

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    async def is_ready(variant: str) -> bool:
        return await asyncio.to_thread(_is_ready, service, variant)

    killer = HostKiller(ServeRegistry(), is_ready, kill)
    async with asyncio.timeout(GIVE_UP_S):
        while not killer.kills:
            await killer.run(["int8"], every_s=0.01, until_s=0.02)
    await killer.wait_for_hosts(timeout_s=GIVE_UP_S)
    (host_kill,) = killer.kills
    assert len(killed) == 1
    assert host_kill.back_after_s is not None
    assert _is_ready(service, "int8")


def _is_ready(service: RunningService, variant: str) -> bool:
    connection = HTTPConnection("127.0.0.1", service.port)
    connection.request("GET", f"/v2/models/{service.catalog.model.name}/versions/{variant}/ready")
    status = connection.getresponse().status
    connection.close()
    return status == 200


async def test_the_hosts_of_ready_variants_are_listed() -> None:
    hosts = Hosts()
    pids = await list_ready_hosts(hosts, hosts.is_ready, ["dense", "int8"])
    assert pids == {"dense": (10, 11), "int8": (20,)}


async def test_a_variant_that_does_not_become_ready_is_named() -> None:
    hosts = Hosts()
    with pytest.raises(TimeoutError, match="variant broken was not ready"):
        await list_ready_hosts(hosts, hosts.is_ready, ["dense", "broken"], timeout_s=0.05)
