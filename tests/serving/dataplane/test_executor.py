from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import (
    BatchExecutor,
    BatchResult,
    HostLost,
    OnOutcome,
    Outcome,
    SendToHost,
)
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

    def send(self, variant: str, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
        self.batches.append((variant, inputs["x"].tolist()))
        self.clock.now += 0.005
        on_outcome(BatchResult({"y": 2 * inputs["x"]}, compute_s=0.003))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(Metrics(CollectorRegistry(), "shirts"), Statistics(["dense"]))


def outcome_of(
    send: SendToHost, telemetry: Telemetry, clock: ManualClock
) -> Outcome[Sequence[Arrays]]:
    """Return the outcome of a batch of `REQUESTS`."""
    outcomes: list[Outcome[Sequence[Arrays]]] = []
    BatchExecutor(send, telemetry, clock.time).run("dense", REQUESTS, outcomes.append)
    (outcome,) = outcomes
    return outcome


def test_requests_run_as_one_batch_and_each_gets_its_own_outputs(
    clock: ManualClock, telemetry: Telemetry
) -> None:
    host = FakeHost(clock)
    result = outcome_of(host.send, telemetry, clock)
    assert isinstance(result, BatchResult)
    assert host.batches == [("dense", [1.0, 2.0, 3.0])]
    assert [outputs["y"].tolist() for outputs in result.outputs] == [[2.0, 4.0], [6.0]]
    assert (result.compute_s, result.input_s) == (0.003, 0.0)


def test_a_batch_is_reported_with_its_size_and_its_times(
    clock: ManualClock, telemetry: Telemetry
) -> None:
    outcome_of(FakeHost(clock).send, telemetry, clock)
    counts = telemetry.statistics.by_variant["dense"]
    assert (counts.executions, counts.samples) == (1, 3)
    assert counts.by_size[3].compute_infer.total_s == 0.003
    assert counts.by_size[3].compute_output.total_s == pytest.approx(0.002)


def lost(variant: str, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
    on_outcome(HostLost(variant))


def too_few(variant: str, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
    on_outcome(BatchResult({"y": inputs["x"][1:]}, compute_s=0.0))


@pytest.mark.parametrize(
    ("send", "error"),
    [
        pytest.param(lost, HostLost, id="the host is lost"),
        pytest.param(too_few, ValueError, id="the outputs do not fit the requests"),
    ],
)
def test_a_batch_that_fails_is_not_reported(
    clock: ManualClock, telemetry: Telemetry, send: SendToHost, error: type[Exception]
) -> None:
    assert isinstance(outcome_of(send, telemetry, clock), error)
    assert telemetry.statistics.by_variant["dense"].executions == 0


def test_a_host_that_is_lost_already_raises(clock: ManualClock, telemetry: Telemetry) -> None:
    def gone(variant: str, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
        raise HostLost(variant)

    with pytest.raises(HostLost):
        outcome_of(gone, telemetry, clock)
