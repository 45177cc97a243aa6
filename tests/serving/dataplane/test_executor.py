from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchExecutor, BatchResult, HostLost, RunOnHost
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from tests.serving.dataplane.scheduler_harness import ManualClock

REQUESTS: Sequence[Arrays] = [{"x": np.array([1.0, 2.0])}, {"x": np.array([3.0])}]


class FakeHost:
    """A host that doubles its inputs within 5 ms, of which it computes 3 ms."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.batches: list[tuple[str, list[float]]] = []

    async def run(self, variant: str, inputs: Arrays) -> BatchResult[Arrays]:
        self.batches.append((variant, inputs["x"].tolist()))
        self.clock.now += 0.005
        return BatchResult({"y": 2 * inputs["x"]}, compute_s=0.003)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(Metrics(CollectorRegistry(), "shirts"), Statistics(["dense"]))


async def test_requests_run_as_one_batch_and_each_gets_its_own_outputs(
    clock: ManualClock, telemetry: Telemetry
) -> None:
    host = FakeHost(clock)
    result = await BatchExecutor(host.run, telemetry, clock.time).run("dense", REQUESTS)
    assert host.batches == [("dense", [1.0, 2.0, 3.0])]
    assert [outputs["y"].tolist() for outputs in result.outputs] == [[2.0, 4.0], [6.0]]
    assert (result.compute_s, result.input_s) == (0.003, 0.0)


async def test_a_batch_is_reported_with_its_size_and_its_times(
    clock: ManualClock, telemetry: Telemetry
) -> None:
    await BatchExecutor(FakeHost(clock).run, telemetry, clock.time).run("dense", REQUESTS)
    counts = telemetry.statistics.by_variant["dense"]
    assert (counts.executions, counts.samples) == (1, 3)
    assert counts.by_size[3].compute_infer.total_s == 0.003
    assert counts.by_size[3].compute_output.total_s == pytest.approx(0.002)


async def lost(variant: str, inputs: Arrays) -> BatchResult[Arrays]:
    raise HostLost(variant)


async def too_few(variant: str, inputs: Arrays) -> BatchResult[Arrays]:
    return BatchResult({"y": inputs["x"][1:]}, compute_s=0.0)


@pytest.mark.parametrize(
    ("run", "error"),
    [
        pytest.param(lost, HostLost, id="the host is lost"),
        pytest.param(too_few, ValueError, id="the outputs do not fit the requests"),
    ],
)
async def test_a_batch_that_fails_is_not_reported(
    clock: ManualClock,
    telemetry: Telemetry,
    run: RunOnHost,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        await BatchExecutor(run, telemetry, clock.time).run("dense", REQUESTS)
    assert telemetry.statistics.by_variant["dense"].executions == 0
