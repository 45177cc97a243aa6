from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.latency import MAX_OBSERVATION_AGE_S, LatencyModel
from serving.routing.profile import LatencyQuantiles
from serving.routing.speed import WINDOW
from tests.serving.builders import exactly

CARD = {1: 0.001, 8: 0.002, 64: 0.008}


@dataclass
class ManualClock:
    """A clock that the test advances."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def model(clock: ManualClock) -> LatencyModel:
    return LatencyModel({"dense": exactly(CARD), "int8": exactly({1: 0.0005})}, clock)


def lognormal_card(typical_s: Mapping[int, float], sigma: float) -> dict[int, LatencyQuantiles]:
    """Return the report card of batches with lognormal times."""
    p95, p99 = math.exp(1.6449 * sigma), math.exp(2.3263 * sigma)
    return {size: LatencyQuantiles(s, p95 * s, p99 * s) for size, s in typical_s.items()}


def observe(model: LatencyModel, size: int, took_s: float, times: int = 60) -> None:
    for _ in range(times):
        model.observe("dense", size, took_s)


@pytest.mark.parametrize(
    ("size", "expected_s"),
    [
        pytest.param(1, 0.001, id="a measured size"),
        pytest.param(2, 0.001 + 0.001 / 7, id="between two measured sizes: linear"),
        pytest.param(8, 0.002, id="the larger measured size"),
        pytest.param(36, 0.005, id="half way to the next measured size"),
        pytest.param(64, 0.008, id="the largest"),
        pytest.param(128, 0.016, id="beyond the largest: proportional"),
        pytest.param(96, 0.012, id="beyond the largest, not a multiple"),
    ],
)
def test_predictions_without_observations_are_those_of_the_report_card(
    model: LatencyModel, size: int, expected_s: float
) -> None:
    assert model.times("dense").typical_s(size) == pytest.approx(expected_s)
    assert model.times("dense").within_s(size) == pytest.approx(expected_s, rel=0.005)
    assert model.best_case_s("dense", size) == pytest.approx(expected_s)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_initial_quantiles_are_those_of_the_report_card(
    clock: ManualClock, quantile: float
) -> None:
    card = LatencyQuantiles(0.010, 0.014, 0.022)
    times = LatencyModel({"dense": {1: card}}, clock).times("dense")
    expected_s = {0.5: card.p50_s, 0.95: card.p95_s, 0.99: card.p99_s}[quantile]
    assert times.within_s(1, quantile) == pytest.approx(expected_s, rel=0.15)
    assert times.miss_probability(1, expected_s) == pytest.approx(1 - quantile, abs=0.04)


def test_the_miss_probability_falls_with_the_time_left(clock: ManualClock) -> None:
    times = LatencyModel({"dense": lognormal_card(CARD, 0.3)}, clock).times("dense")
    late = [times.miss_probability(8, left_s) for left_s in np.linspace(-0.001, 0.006, 50)]
    assert late == sorted(late, reverse=True)
    assert (late[0], times.miss_probability(8, 0.0), times.miss_probability(8, 1e-6)) == (1, 1, 1)
    assert 0 < late[-1] < 0.01
    assert times.miss_probability(8, math.inf) == 0


def test_predictions_follow_a_slowdown_and_its_end_within_ten_batches() -> None:
    rng, clock = np.random.default_rng(0), ManualClock()
    model = LatencyModel(
        {"dense": lognormal_card(CARD, 0.1), "int8": lognormal_card({1: 0.0005}, 0.1)}, clock
    )

    def run(batches: int, slowdown: float) -> None:
        for _ in range(batches):
            took_s = slowdown * CARD[8] * rng.lognormal(0, 0.1)
            clock.now += took_s
            model.observe("dense", 8, took_s)

    for slowdown in (1, 3, 1):
        run(10, slowdown)
        for variant, size, typical_s in (("dense", 8, CARD[8]), ("int8", 1, 0.0005)):
            seen = model.times(variant).typical_s(size) / typical_s
            assert seen == pytest.approx(slowdown, rel=0.15), variant
        run(200, slowdown)
        assert model.times("dense").typical_s(8) == pytest.approx(slowdown * CARD[8], rel=0.15)


def test_a_few_slow_batches_do_not_change_the_predictions(model: LatencyModel) -> None:
    observe(model, 1, 0.001, times=10)
    observe(model, 1, 0.1, times=WINDOW // 2)
    assert model.times("dense").typical_s(64) == pytest.approx(0.008, rel=0.01)
    observe(model, 1, 0.1, times=1)
    assert model.times("dense").typical_s(64) > 0.5, "more than half of the last nine"


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_predictions_of_an_unused_variant_do_not_drift(sigma: float) -> None:
    rng, clock = np.random.default_rng(1), ManualClock()
    model = LatencyModel(
        {"dense": lognormal_card(CARD, sigma), "int8": lognormal_card({1: 0.0005}, sigma)}, clock
    )
    seen = []
    for size in rng.choice(list(CARD), 5_000):
        model.observe("dense", int(size), CARD[int(size)] * rng.lognormal(0, sigma))
        seen.append(math.log(model.times("int8").typical_s(1) / 0.0005))
    for part in np.split(np.array(seen), 5):
        assert abs(part.mean()) < 0.05 + 0.1 * sigma
        assert part.std() < 0.05 + 0.5 * sigma


@pytest.mark.parametrize("claimed", [0.05, 0.5], ids=["a narrow card", "a wide card"])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.35, 0.5])
def test_95_of_100_batches_stay_within_the_prediction(sigma: float, claimed: float) -> None:
    rng, clock = np.random.default_rng(2), ManualClock()
    model = LatencyModel({"dense": lognormal_card(CARD, claimed)}, clock)
    within = []
    for size in rng.choice(list(CARD), 4_000):
        took_s = CARD[int(size)] * rng.lognormal(0, sigma)
        within.append(took_s <= model.times("dense").within_s(int(size)))
        model.observe("dense", int(size), took_s)
        clock.now += took_s
    assert 0.93 <= np.mean(within) <= 0.97
    assert 0.93 <= np.mean(within[-2_000:]) <= 0.97


def test_a_variant_slower_than_its_report_card_is_detected(clock: ManualClock) -> None:
    model = LatencyModel({"dense": exactly(CARD), "int8": exactly({1: 0.0005})}, clock)
    for _ in range(400):
        model.observe("dense", 1, 0.001)
        model.observe("int8", 1, 0.0010)  # twice the time of its report card
    ratio = model.times("int8").typical_s(1) / model.times("dense").typical_s(1)
    assert ratio == pytest.approx(1.0, rel=0.2)


def test_the_best_case_is_the_shortest_observed_time(
    model: LatencyModel, clock: ManualClock
) -> None:
    observe(model, 1, 0.0007, times=1)
    observe(model, 1, 0.5)
    clock.now += MAX_OBSERVATION_AGE_S
    assert model.best_case_s("dense", 1) == pytest.approx(0.0007)
    assert model.best_case_s("dense", 8) == pytest.approx(0.002), (
        "of other sizes only the report card is known"
    )


def test_the_best_case_returns_to_the_report_card_after_a_while(
    model: LatencyModel, clock: ManualClock
) -> None:
    model.calibrate("dense", {1: [0.020]})
    assert model.best_case_s("dense", 1) == 0.020
    clock.now += MAX_OBSERVATION_AGE_S + 1
    assert model.best_case_s("dense", 1) == 0.001, "the report card, so that one request is tried"
    observe(model, 1, 0.015, times=1)
    assert model.best_case_s("dense", 1) == 0.015


def test_calibration_replaces_the_report_card(model: LatencyModel) -> None:
    model.calibrate("dense", {1: [0.003, 0.9, 0.005, 0.004, 0.005], 8: [0.006], 64: [0.02, 0.03]})
    assert model.times("dense").typical_s(1) == 0.005
    assert model.best_case_s("dense", 1) == 0.003
    assert model.times("dense").typical_s(128) == pytest.approx(0.06)
    typical_s = model.times("int8").typical_s(1)
    assert typical_s == 0.0005, "the calibration of one variant does not affect others"


def test_old_observations_are_discarded(model: LatencyModel, clock: ManualClock) -> None:
    for _ in range(200):
        observe(model, 1, 0.001, times=2)
        observe(model, 8, 0.004, times=2)  # twice the time of its report card
        clock.now += 0.1
    clock.now += MAX_OBSERVATION_AGE_S - 0.2
    assert model.times("dense").typical_s(8) > 0.0025, "just young enough"
    clock.now += 0.2
    for size, typical_s in CARD.items():
        assert model.times("dense").typical_s(size) == pytest.approx(typical_s), (
            "the report card again"
        )
        assert model.times("dense").within_s(size) == pytest.approx(typical_s, rel=0.005)
    assert model.times("int8").typical_s(1) == pytest.approx(0.0005), "the speed factor is 1 again"


def test_a_single_old_observation_is_discarded(model: LatencyModel, clock: ManualClock) -> None:
    clock.now += 2 * MAX_OBSERVATION_AGE_S
    observe(model, 1, 0.5, times=1)
    assert model.times("dense").within_s(1) > 0.00104, (
        "it was later than predicted, so the margin is wider"
    )
    clock.now += MAX_OBSERVATION_AGE_S + 1
    assert model.times("dense").within_s(1) == pytest.approx(0.001, rel=0.005)


def test_old_observations_are_discarded_although_another_variant_was_in_use_since(
    model: LatencyModel, clock: ManualClock
) -> None:
    clock.now += 2 * MAX_OBSERVATION_AGE_S
    observe(model, 1, 0.5, times=1)
    clock.now += MAX_OBSERVATION_AGE_S - 1
    model.observe("int8", 1, 0.0005)
    clock.now += 0.5
    assert model.times("dense").within_s(1) > 0.00104, "just young enough"
    clock.now += 1
    assert model.times("dense").within_s(1) == pytest.approx(0.001, rel=0.005)


def test_the_time_since_the_last_batch_is_known(model: LatencyModel, clock: ManualClock) -> None:
    assert model.since_last_batch_s("dense") == math.inf
    observe(model, 1, 0.001, times=1)
    clock.now += 7
    assert model.since_last_batch_s("dense") == 7
    model.calibrate("int8", {1: [0.001]})
    assert model.since_last_batch_s("int8") == 0


def run_late(model: LatencyModel, clock: ManualClock, lag_s: float, batches: int = 20) -> None:
    """Run batches of 1 that come back `lag_s` late, though the host takes as long as ever."""
    for _ in range(batches):
        clock.now += CARD[1] + lag_s
        model.observe("dense", 1, CARD[1] + lag_s, CARD[1])


def test_the_lag_of_the_gateway_is_added_not_multiplied(
    model: LatencyModel, clock: ManualClock
) -> None:
    run_late(model, clock, 0.020)
    for variant, size, host_s in (("dense", 1, 0.001), ("dense", 64, 0.008), ("int8", 1, 0.0005)):
        times = model.times(variant)
        assert times.typical_s(size) == pytest.approx(host_s + 0.020, rel=0.05), variant
        assert times.within_s(size) < 1.5 * (host_s + 0.020), variant
        assert times.miss_probability(size, host_s + 0.010) > 0.9, variant


def test_a_lone_batch_after_a_load_is_predicted_like_one_before(
    model: LatencyModel, clock: ManualClock
) -> None:
    for _ in range(300):  # a busy gateway on a machine that is three times as slow
        clock.now += 0.023
        model.observe("dense", 1, 0.023, 0.003)
    assert model.times("dense").typical_s(1) == pytest.approx(0.023, rel=0.1)
    clock.now += 1.0
    assert 0.001 < model.times("dense").typical_s(1) < 0.002
    model.observe("dense", 1, 0.001, 0.001)
    assert 0.0009 < model.times("dense").within_s(1) < 0.002


def test_the_time_on_the_link_is_calibrated_and_follows_lone_batches(
    model: LatencyModel, clock: ManualClock
) -> None:
    model.calibrate("dense", {1: [0.001], 64: [0.008]}, {1: [0.0005], 64: [0.002]})
    assert model.times("dense").typical_s(1) == pytest.approx(0.0015)
    assert model.times("dense").typical_s(64) == pytest.approx(0.010)
    for _ in range(30):
        clock.now += 5.0
        model.observe("dense", 1, 0.003, 0.001)
    clock.now += 5.0
    assert model.times("dense").typical_s(1) == pytest.approx(0.003, rel=0.1)


def test_predictions_do_not_fall_with_the_batch_size(clock: ManualClock) -> None:
    model = LatencyModel({"dense": exactly({1: 0.089, 2: 0.066, 4: 0.070, 8: 0.060})}, clock)
    model.calibrate("dense", {1: [0.050], 2: [0.040]}, {1: [0.002], 2: [0.001]})
    rng = np.random.default_rng(3)
    for size in rng.choice([1, 2, 4, 8], 400):
        clock.now += 0.1
        took_s = float(rng.uniform(0.05, 0.1))
        model.observe("dense", int(size), took_s + 0.001, took_s)
        typical_s = [model.times("dense").typical_s(each) for each in range(1, 20)]
        assert typical_s == sorted(typical_s)


def test_a_variant_without_any_measured_size_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="at least one batch size"):
        LatencyModel({"dense": {}}, clock)


seconds = st.floats(1e-6, 100)
cards = st.dictionaries(st.integers(1, 128), seconds, min_size=1, max_size=5)
batches = st.tuples(st.integers(1, 256), seconds, st.floats(0, MAX_OBSERVATION_AGE_S))


@given(cards, st.lists(batches, max_size=150), st.integers(1, 256))
def test_predictions_are_positive_for_any_observations(
    card: dict[int, float], seen: list[tuple[int, float, float]], size: int
) -> None:
    clock = ManualClock()
    model = LatencyModel({"dense": exactly(card)}, clock)
    for number, (own_size, took_s, pause_s) in enumerate(seen):
        model.observe("dense", own_size, took_s, took_s / 3 if number % 2 else None)
        clock.now += pause_s
        times = model.times("dense")
        assert 0 < times.within_s(size, 0.5) <= times.within_s(size) <= times.within_s(size, 0.99)
        assert times.within_s(size) < math.inf
        assert model.best_case_s("dense", size) > 0
        assert 0 <= times.miss_probability(size, 0.5) <= 1
