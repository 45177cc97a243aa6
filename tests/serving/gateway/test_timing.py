"""The timing of a new host, with a real host on loopback."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.dataplane.batching import Arrays
from serving.gateway.timing import MIN_TIMINGS, PAUSE_S, TIMINGS, time_host
from serving.link.calls import BatchFailed
from serving.link.connection import HostConnection
from tests.serving.builders import MODEL, answers
from tests.serving.link.hosts import running_host


@contextmanager
def connected(address: str) -> Iterator[HostConnection]:
    host = HostConnection(address, lambda: None)
    try:
        yield host
    finally:
        host.close()


@pytest.mark.parametrize(
    ("within_s", "timings"),
    [
        pytest.param(math.inf, TIMINGS, id="enough time"),
        pytest.param(0.0, MIN_TIMINGS, id="too little time"),
    ],
)
async def test_each_size_is_timed_after_one_batch_to_warm_up(within_s: float, timings: int) -> None:
    sizes: Counter[int] = Counter()
    pauses: list[float] = []

    def run(inputs: Arrays) -> Arrays:
        sizes[len(inputs["pixels"])] += 1
        return answers("dense", inputs)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    with running_host(run) as socket, connected(socket.address) as host:
        host_s, way_s = await time_host(host, MODEL, (1, 4), pause, within_s)
    assert sizes == {1: 1 + timings, 4: 1 + timings}
    assert pauses == [PAUSE_S] * sizes.total()
    for times in (host_s, way_s):
        assert {size: len(each) for size, each in times.items()} == {1: timings, 4: timings}
        assert all(took_s > 0 for each in times.values() for took_s in each)


async def test_a_host_that_cannot_run_a_batch_is_an_error() -> None:
    def fail(inputs: Arrays) -> Arrays:
        raise RuntimeError("no")

    async def pause(seconds: float) -> None:
        pass

    with (
        running_host(fail) as socket,
        connected(socket.address) as host,
        pytest.raises(BatchFailed, match="RuntimeError"),
    ):
        await time_host(host, MODEL, (1,), pause, math.inf)
