from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from variants.catalog.catalog import Runtime
from variants.measurement.profiling import (
    _TAIL,
    CALLS_PER_TURN,
    LOADS,
    MAX_ROUNDS,
    RESAMPLES,
    WARM_UP_CALLS,
    TurnPlan,
    plan_turns,
    profile,
    rounds_within,
    speedup,
    summarize,
    time_in_turns,
)
from variants.runtime.runner import Runner

DENSE: dict[Runtime, str] = {"onnx": "dense"}
SAMPLES = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


@dataclass
class Machine:
    """A simulated clock, and runners that advance it by a given time."""

    now: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def loader(self, name: str, seconds: Callable[[int], float]) -> Callable[[], Runner]:
        """Return a loader of a runner that takes `seconds(batch size)`."""

        def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self.calls.append((name, len(inputs["x"])))
            self.now += seconds(len(inputs["x"]))
            return {}

        return lambda: run


def test_the_speedup_is_the_ratio_of_medians_at_each_batch_size() -> None:
    machine = Machine()
    loaders = {
        "dense": machine.loader("dense", lambda size: 0.004 * size),
        "int8": machine.loader("int8", lambda size: 0.002 * size + 0.001),
    }
    latencies = profile(loaders, SAMPLES, dense=DENSE, batch_sizes=(1, 4), clock=machine.clock)
    assert [one.batch_size for one in latencies["int8"]] == [1, 4]
    assert [one.p50_s for one in latencies["int8"]] == pytest.approx([0.003, 0.009])
    assert [one.speedup.value for one in latencies["int8"]] == pytest.approx([4 / 3, 16 / 9])
    assert [one.speedup.low for one in latencies["dense"]] == [1, 1]
    assert [one.speedup.high for one in latencies["dense"]] == [1, 1]


def test_the_reference_is_the_faster_runtime_of_dense_at_each_batch_size() -> None:
    machine = Machine()
    loaders = {
        "dense": machine.loader("dense", lambda size: 0.004 * size),
        "dense in torch": machine.loader("dense in torch", lambda size: 0.002 * size + 0.006),
        "int8": machine.loader("int8", lambda size: 0.002 * size),
    }
    latencies = profile(
        loaders,
        SAMPLES,
        dense={"onnx": "dense", "torch": "dense in torch"},
        batch_sizes=(1, 8),
        clock=machine.clock,
    )
    small, large = latencies["int8"]
    assert small.dense_p50_s == pytest.approx({"onnx": 0.004, "torch": 0.008})
    assert small.reference == "onnx"
    assert small.speedup.value == pytest.approx(2)
    assert large.dense_p50_s == pytest.approx({"onnx": 0.032, "torch": 0.022})
    assert large.reference == "torch"
    assert large.speedup.value == pytest.approx(22 / 16)
    # In the runtime that serves it, dense is slower than the reference.
    assert latencies["dense"][1].speedup.high == pytest.approx(22 / 32)


def test_first_calls_and_first_calls_of_a_turn_are_not_timed() -> None:
    machine = Machine()

    def loader(name: str) -> Callable[[], Runner]:
        used_sizes: set[int] = set()

        def seconds(size: int) -> float:
            is_first, follows_another = (
                size not in used_sizes,
                machine.calls[-2:-1] != [(name, size)],
            )
            used_sizes.add(size)
            return 10.0 if is_first else 1.0 if follows_another else 0.001

        return machine.loader(name, seconds)

    loaders = {name: loader(name) for name in ("dense", "int8", "sparse-2:4")}
    latencies = profile(loaders, SAMPLES, dense=DENSE, batch_sizes=(1, 8), clock=machine.clock)
    p99 = [one.p99_s for measured in latencies.values() for one in measured]
    assert p99 == pytest.approx([0.001] * 6)


def test_a_slowing_machine_changes_latencies_but_not_speedups() -> None:
    machine = Machine()
    loaders = {
        "dense": machine.loader("dense", lambda size: 0.004 * (1 + machine.now)),
        "int8": machine.loader("int8", lambda size: 0.002 * (1 + machine.now)),
    }
    latencies = profile(loaders, SAMPLES, dense=DENSE, batch_sizes=(1,), clock=machine.clock)
    assert latencies["int8"][0].p99_s > 1.5 * latencies["int8"][0].p50_s
    assert latencies["int8"][0].speedup.value == pytest.approx(2, rel=0.03)


def test_the_interval_of_equal_variants_contains_1_in_95_percent_of_simulations() -> None:
    # Each load deviates by 3 % as a whole, each call by 1 %.
    rng = np.random.default_rng(0)
    shape = (LOADS, 4)

    def timings() -> NDArray[np.float64]:
        return np.exp(rng.normal(0, 0.03, (LOADS, 1)) + rng.normal(0, 0.01, shape))

    intervals = [speedup(timings(), timings(), rng) for _ in range(300)]
    covered = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert 0.92 <= covered <= 0.98


def test_the_tail_probability_is_that_of_the_expanded_percentile_interval() -> None:
    t = 2.262157  # Student's 97.5 % point with LOADS - 1 = 9 degrees of freedom
    assert LOADS == 10
    assert NormalDist().cdf(-math.sqrt(10 / 9) * t) == pytest.approx(_TAIL, rel=0.01)


def test_the_bootstrap_resamples_whole_loads_in_pairs() -> None:
    dense = np.repeat(np.linspace(1, 2, LOADS)[:, None], 4, axis=1)
    assert speedup(dense, dense / 3, np.random.default_rng(0)).low == pytest.approx(3)
    assert speedup(dense, dense / 3, np.random.default_rng(0)).high == pytest.approx(3)

    other = np.full_like(dense, 1.5)
    draws = np.random.default_rng(7).integers(LOADS, size=(RESAMPLES, LOADS))
    ratios = sorted(float(np.median(dense[draw])) / 1.5 for draw in draws)
    interval = speedup(dense, other, np.random.default_rng(7))
    assert interval.low == pytest.approx(np.quantile(ratios, _TAIL))
    assert interval.high == pytest.approx(np.quantile(ratios, 1 - _TAIL))


@given(st.integers(0, 2**32 - 1))
def test_the_interval_contains_the_estimate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense, variant = rng.lognormal(size=(LOADS, 6)), rng.lognormal(size=(LOADS, 6))
    interval = speedup(dense, variant, rng)
    assert 0 < interval.low <= interval.value <= interval.high


def test_quantiles_cover_all_calls_of_all_loads() -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(1, 1001) / 1e3).reshape(LOADS, 100)
    latency = summarize(16, seconds, {"onnx": seconds}, np.random.default_rng(0))
    assert latency.p50_s == pytest.approx(0.5005)
    assert latency.p95_s == pytest.approx(0.95005)
    assert latency.p99_s == pytest.approx(0.99001)
    assert latency.samples_per_s == pytest.approx(16 / 0.5005)


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        pytest.param(0.0, 1, id="no time: still one round"),
        pytest.param(1.0, 27, id="a round is two turns of 6 calls of 3 ms"),
        pytest.param(1e6, MAX_ROUNDS, id="the maximum"),
    ],
)
def test_rounds_within(seconds: float, rounds: int) -> None:
    machine = Machine()
    calls = {name: _advance(machine, 0.003) for name in ("dense", "int8")}
    assert rounds_within(seconds, calls, machine.clock) == rounds


def test_one_slow_call_does_not_change_the_number_of_rounds() -> None:
    machine = Machine()
    durations = iter([5.0])
    calls = {"dense": lambda: _step(machine, next(durations, 0.001))}
    assert rounds_within(0.06, calls, machine.clock) == pytest.approx(10, abs=1)


def test_a_profile_takes_about_the_given_time() -> None:
    machine = Machine()
    loaders = {
        "dense": machine.loader("dense", lambda size: 0.003),
        "int8": machine.loader("int8", lambda size: 0.001),
    }
    sizes = (1, 2, 4)
    profile(
        loaders, SAMPLES, dense=DENSE, seconds_per_point=0.5, batch_sizes=sizes, clock=machine.clock
    )
    assert machine.now == pytest.approx(0.5 * len(loaders) * len(sizes), rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "plan"),
    [
        pytest.param(0.0, TurnPlan(1, 2), id="no time: the least number of calls"),
        pytest.param(0.020, TurnPlan(1, 4), id="a part of a turn"),
        pytest.param(0.024, TurnPlan(1), id="a whole turn"),
        pytest.param(0.100, TurnPlan(4), id="several"),
    ],
)
def test_turns_are_shorter_where_the_time_does_not_suffice(seconds: float, plan: TurnPlan) -> None:
    machine = Machine()
    calls = {name: _advance(machine, 0.002) for name in ("dense", "int8")}
    assert plan_turns(seconds + 1e-9, calls, machine.clock, 2) == plan
    assert plan_turns(seconds, calls, machine.clock, CALLS_PER_TURN).calls == CALLS_PER_TURN


def test_slow_batches_take_fewer_calls_and_fast_ones_as_many_as_before() -> None:
    machine = Machine()
    loaders = {
        "dense": machine.loader("dense", lambda size: 0.001 * size**3),
        "int8": machine.loader("int8", lambda size: 0.0005 * size**3),
    }
    latencies = profile(
        loaders,
        SAMPLES,
        dense=DENSE,
        seconds_per_point=0.3,
        batch_sizes=(1, 10),
        clock=machine.clock,
        least_calls=3,
    )
    number = {size: machine.calls.count(("int8", size)) for size in (1, 10)}
    assert number[1] > LOADS * (WARM_UP_CALLS + 1 + CALLS_PER_TURN)
    assert number[10] == WARM_UP_CALLS + 1 + LOADS * (1 + 3)
    assert [one.p50_s for one in latencies["int8"]] == pytest.approx([0.0005, 0.5])
    assert [one.speedup.value for one in latencies["int8"]] == pytest.approx([2, 2])


def test_the_order_of_turns_is_random_in_every_round_and_determined_by_the_seed() -> None:
    def order(seed: int) -> list[str]:
        machine = Machine()
        ran: list[str] = []
        calls = {name: _note(ran, name) for name in ("dense", "int8")}
        time_in_turns(calls, TurnPlan(50), machine.clock, np.random.default_rng(seed))
        return ran[:: 1 + CALLS_PER_TURN]

    rounds = list(zip(order(0)[::2], order(0)[1::2], strict=True))
    assert {frozenset(turns) for turns in rounds} == {frozenset({"dense", "int8"})}
    assert 10 < sum(first == "dense" for first, _ in rounds) < 40
    assert order(0) == order(0) != order(1)


def test_variants_are_loaded_several_times_and_samples_repeat_in_large_batches() -> None:
    machine = Machine()
    batches: list[NDArray[Any]] = []
    loads = 0

    def load() -> Runner:
        nonlocal loads
        loads += 1

        def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            batches.append(inputs["x"])
            machine.now += 0.001
            return {}

        return run

    profile(
        {"dense": load},
        SAMPLES,
        dense=DENSE,
        seconds_per_point=0,
        batch_sizes=(4,),
        clock=machine.clock,
    )
    assert loads == LOADS
    assert len(batches) == LOADS * (WARM_UP_CALLS + 1 + CALLS_PER_TURN) + 3 * (1 + CALLS_PER_TURN)
    assert batches[0].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_the_reported_progress_increases_to_1() -> None:
    machine = Machine()
    fractions: list[float] = []
    profile(
        {"dense": machine.loader("dense", lambda size: 0.1)},
        SAMPLES,
        dense=DENSE,
        batch_sizes=(1, 2),
        clock=machine.clock,
        on_progress=fractions.append,
    )
    assert fractions == sorted(fractions)
    assert len(fractions) == 2 * LOADS
    assert fractions[-1] == 1


def _step(machine: Machine, seconds: float) -> None:
    machine.now += seconds


def _advance(machine: Machine, seconds: float) -> Callable[[], None]:
    return lambda: _step(machine, seconds)


def _note(ran: list[str], name: str) -> Callable[[], None]:
    return lambda: ran.append(name)
