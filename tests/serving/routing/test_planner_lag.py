"""Admission while the gateway itself is late: the lag is added to a batch, it is no factor."""

from __future__ import annotations

import pytest

from serving.errors import Overloaded
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.routing.step import Send
from tests.serving.builders import exactly

CARDS = {"dense": exactly({1: 0.0010, 64: 0.003}), "int8": exactly({1: 0.0010, 64: 0.003})}
HOST_S = 0.001


class LateGateway:
    """A planner whose batches come back late, although the host takes as long as ever."""

    def __init__(self, lag_s: float, within_s: float) -> None:
        self.now = 100.0
        self.within_s = within_s
        self.latency = LatencyModel(CARDS, lambda: self.now)
        self.planner = Planner[int](
            pareto,
            self.latency,
            {"dense": 0.9, "int8": 0.88},
            max_batch=64,
            max_queue=1_000,
            cores=1,
        )
        for variant in CARDS:
            self.planner.set_slots(variant, 1)
        for number in range(9):
            self.admit(number)
            send = self.send()
            self.now += HOST_S + lag_s
            self.planner.end_batch(send.number, self.now, host_s=HOST_S)

    def admit(self, number: int) -> None:
        self.planner.admit(
            number,
            LaneKey(("dense", "int8")),
            size=1,
            deadline=self.now + self.within_s,
            priority=10,
            now=self.now,
        )

    def send(self) -> Send[int]:
        step = self.planner.step(self.now)
        assert isinstance(step, Send)
        return step


@pytest.mark.parametrize("lag_ms", [0, 5, 10, 20])
def test_a_lag_does_not_make_a_full_batch_look_hopeless(lag_ms: float) -> None:
    gateway = LateGateway(lag_ms / 1e3, within_s=0.050)
    typical_s = gateway.latency.times("dense").typical_s(64)
    assert typical_s == pytest.approx(0.003 + lag_ms / 1e3, rel=0.1)
    gateway.admit(-1)
    gateway.send()
    for number in range(63):  # the next batch is back in time with all of them
        gateway.admit(number)


def test_requests_are_refused_if_the_lag_takes_all_the_time() -> None:
    gateway = LateGateway(0.020, within_s=0.030)
    gateway.admit(-1)
    gateway.send()
    gateway.admit(0)
    with pytest.raises(Overloaded):
        gateway.admit(1)
