from __future__ import annotations

import asyncio
from functools import partial

import pytest

from serving.dataplane.executor import HostLost
from serving.link.connection import HostConnection
from serving.link.pool import HostPool
from tests.serving.link.hosts import (
    Connect,
    GatedRunner,
    doubled,
    echo,
    numbers,
    run_batch,
    running_host,
)
from tests.waiting import until


def are_in_flight(hosts: list[HostConnection], counts: list[int]) -> bool:
    return [host.in_flight for host in hosts] == counts


async def test_a_pool_sends_to_the_least_loaded_replica(connect: Connect) -> None:
    first, second = GatedRunner(), GatedRunner()
    pool = HostPool(lambda variant, count: None)
    with running_host(first) as one, running_host(second) as two:
        hosts = [connect(one.address), connect(two.address)]
        for host in hosts:
            pool.add("dense", host)
        runs = []
        for counts in ([1, 0], [1, 1], [2, 1], [2, 2], [3, 2]):
            runs.append(asyncio.create_task(run_batch(pool, "dense", numbers())))
            await until(partial(are_in_flight, hosts, counts))
        second.open.set()
        await until(lambda: hosts[1].in_flight == 0)
        runs += [asyncio.create_task(run_batch(pool, "dense", numbers())) for _ in range(3)]
        first.open.set()
        await asyncio.gather(*runs)
        assert (first.finished, second.finished) == (3, 5)


async def test_a_pool_reports_changes_of_the_number_of_replicas(connect: Connect) -> None:
    reports: list[tuple[str, int]] = []
    pool = HostPool(lambda variant, count: reports.append((variant, count)))
    with running_host(echo) as one, running_host(doubled) as two:
        first, second = connect(one.address), connect(two.address)
        pool.add("dense", first)
        pool.add("dense", second)
        pool.add("int8", second)
        pool.remove("dense", first)
        pool.remove("dense", first)  # has no effect a second time
        pool.remove("int4", first)
        assert reports == [("dense", 1), ("dense", 2), ("int8", 1), ("dense", 1)]
        assert (pool.hosts("dense"), pool.hosts("int4")) == ([second], [])
        assert list((await run_batch(pool, "dense", numbers())).outputs) == ["2 * x"]


async def test_a_batch_for_a_variant_without_replicas_raises_host_lost() -> None:
    with pytest.raises(HostLost):
        await run_batch(HostPool(lambda variant, count: None), "dense", numbers())
