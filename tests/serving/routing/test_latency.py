from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.latency import MAX_OBSERVATION_AGE_S, SPEED_FACTOR_WINDOW, LatencyModel
from serving.routing.profile import LatencyQuantiles
from tests.serving.builders import exactly

CARD = {1: 0.001, 8: 0.002, 64: 0.008}


@dataclass
class Time:
    """A clock that stands still until it is moved."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def model(time: Time) -> LatencyModel:
    return LatencyModel({"dense": exactly(CARD), "int8": exactly({1: 0.0005})}, time)


def noisy(typical_s: Mapping[int, float], sigma: float) -> dict[int, LatencyQuantiles]:
    """The report card of batches whose times are lognormal."""
    p95, p99 = math.exp(1.6449 * sigma), math.exp(2.3263 * sigma)
    return {size: LatencyQuantiles(s, p95 * s, p99 * s) for size, s in typical_s.items()}


def observe(model: LatencyModel, size: int, took_s: float, times: int = 60) -> None:
    for _ in range(times):
        model.observe("dense", size, took_s)


@pytest.mark.parametrize(
    ("size", "expected_s"),
    [
        pytest.param(1, 0.001, id="a measured size"),
        pytest.param(2, 0.001 + 0.001 / 7, id="between two sizes: linear"),
        pytest.param(8, 0.002, id="the larger itself"),
        pytest.param(36, 0.005, id="half way to the next"),
        pytest.param(64, 0.008, id="the largest"),
        pytest.param(128, 0.016, id="beyond the largest: in proportion"),
        pytest.param(96, 0.012, id="beyond the largest, in between"),
    ],
)
def test_before_anything_was_seen_the_report_card_holds(
    model: LatencyModel, size: int, expected_s: float
) -> None:
    assert model.times("dense").typical_s(size) == pytest.approx(expected_s)
    assert model.times("dense").within_s(size) == pytest.approx(expected_s, rel=0.005)
    assert model.best_case_s("dense", size) == pytest.approx(expected_s)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_quantiles_are_at_first_those_of_the_report_card(time: Time, quantile: float) -> None:
    card = LatencyQuantiles(0.010, 0.014, 0.022)
    times = LatencyModel({"dense": {1: card}}, time).times("dense")
    expected_s = {0.5: card.p50_s, 0.95: card.p95_s, 0.99: card.p99_s}[quantile]
    assert times.within_s(1, quantile) == pytest.approx(expected_s, rel=0.15)
    assert times.miss_probability(1, expected_s) == pytest.approx(1 - quantile, abs=0.04)


def test_the_less_time_is_left_the_likelier_a_batch_is_late(time: Time) -> None:
    times = LatencyModel({"dense": noisy(CARD, 0.3)}, time).times("dense")
    late = [times.miss_probability(8, left_s) for left_s in np.linspace(-0.001, 0.006, 50)]
    assert late == sorted(late, reverse=True)
    assert (late[0], times.miss_probability(8, 0.0), times.miss_probability(8, 1e-6)) == (1, 1, 1)
    assert 0 < late[-1] < 0.01
    assert times.miss_probability(8, math.inf) == 0


def test_a_machine_that_becomes_slower_is_followed_within_ten_batches_and_back() -> None:
    rng, time = np.random.default_rng(0), Time()
    model = LatencyModel({"dense": noisy(CARD, 0.1), "int8": noisy({1: 0.0005}, 0.1)}, time)

    def run(batches: int, slowdown: float) -> None:
        for _ in range(batches):
            took_s = slowdown * CARD[8] * rng.lognormal(0, 0.1)
            time.now += took_s
            model.observe("dense", 8, took_s)

    for slowdown in (1, 3, 1):
        run(10, slowdown)
        for variant, size, typical_s in (("dense", 8, CARD[8]), ("int8", 1, 0.0005)):
            seen = model.times(variant).typical_s(size) / typical_s
            assert seen == pytest.approx(slowdown, rel=0.15), variant
        run(200, slowdown)
        assert model.times("dense").typical_s(8) == pytest.approx(slowdown * CARD[8], rel=0.15)


def test_one_slow_batch_is_chance(model: LatencyModel) -> None:
    observe(model, 1, 0.001, times=10)
    observe(model, 1, 0.1, times=SPEED_FACTOR_WINDOW // 2)
    assert model.times("dense").typical_s(64) == pytest.approx(0.008, rel=0.01)
    observe(model, 1, 0.1, times=1)
    assert model.times("dense").typical_s(64) > 0.5, "half of the last nine are none"


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_a_variant_that_is_not_used_does_not_drift_while_others_are(sigma: float) -> None:
    rng, time = np.random.default_rng(1), Time()
    model = LatencyModel({"dense": noisy(CARD, sigma), "int8": noisy({1: 0.0005}, sigma)}, time)
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
    rng, time = np.random.default_rng(2), Time()
    model = LatencyModel({"dense": noisy(CARD, claimed)}, time)
    within = []
    for size in rng.choice(list(CARD), 4_000):
        took_s = CARD[int(size)] * rng.lognormal(0, sigma)
        within.append(took_s <= model.times("dense").within_s(int(size)))
        model.observe("dense", int(size), took_s)
        time.now += took_s
    assert 0.93 <= np.mean(within) <= 0.97
    assert 0.93 <= np.mean(within[-2_000:]) <= 0.97


def test_a_variant_that_is_slower_than_its_card_is_found_out_by_itself(time: Time) -> None:
    model = LatencyModel({"dense": exactly(CARD), "int8": exactly({1: 0.0005})}, time)
    for _ in range(400):
        model.observe("dense", 1, 0.001)
        model.observe("int8", 1, 0.0010)  # twice its card
    ratio = model.times("int8").typical_s(1) / model.times("dense").typical_s(1)
    assert ratio == pytest.approx(1.0, rel=0.2)


def test_idle_is_the_best_ever_seen_however_slow_it_is_now(model: LatencyModel, time: Time) -> None:
    observe(model, 1, 0.0007, times=1)
    observe(model, 1, 0.5)
    time.now += MAX_OBSERVATION_AGE_S
    assert model.best_case_s("dense", 1) == pytest.approx(0.0007)
    assert model.best_case_s("dense", 8) == pytest.approx(0.002), "of others only the card is known"


def test_a_best_time_that_nobody_has_seen_for_long_is_doubted(
    model: LatencyModel, time: Time
) -> None:
    model.calibrate("dense", {1: [0.020]})
    assert model.best_case_s("dense", 1) == 0.020
    time.now += MAX_OBSERVATION_AGE_S + 1
    assert model.best_case_s("dense", 1) == 0.001, "the card: one request gets tried"
    observe(model, 1, 0.015, times=1)
    assert model.best_case_s("dense", 1) == 0.015


def test_calibration_replaces_the_card(model: LatencyModel) -> None:
    model.calibrate("dense", {1: [0.003, 0.9, 0.005, 0.004, 0.005], 8: [0.006], 64: [0.02, 0.03]})
    assert model.times("dense").typical_s(1) == 0.005
    assert model.best_case_s("dense", 1) == 0.003
    assert model.times("dense").typical_s(128) == pytest.approx(0.06)
    typical_s = model.times("int8").typical_s(1)
    assert typical_s == 0.0005, "one variant's calibration says nothing of others"


def test_what_was_seen_long_ago_is_forgotten(model: LatencyModel, time: Time) -> None:
    observe(model, 1, 0.5)
    time.now += MAX_OBSERVATION_AGE_S
    assert model.times("dense").typical_s(1) == pytest.approx(0.5, rel=0.1), "just fresh"
    time.now += 0.001
    for size, typical_s in CARD.items():
        assert model.times("dense").typical_s(size) == pytest.approx(typical_s), "back to the card"
        assert model.times("dense").within_s(size) == pytest.approx(typical_s, rel=0.005)
    assert model.times("int8").typical_s(1) == pytest.approx(0.0005), "nor is the machine slow"


def test_a_batch_that_stayed_the_only_one_is_forgotten_too(model: LatencyModel, time: Time) -> None:
    time.now += 2 * MAX_OBSERVATION_AGE_S
    observe(model, 1, 0.5, times=1)
    assert model.times("dense").within_s(1) > 0.00104, (
        "it was later than predicted: wider from now on"
    )
    time.now += MAX_OBSERVATION_AGE_S + 1
    assert model.times("dense").within_s(1) == pytest.approx(0.001, rel=0.005)


def test_it_is_known_how_long_ago_a_variant_was_seen(model: LatencyModel, time: Time) -> None:
    assert model.since_last_batch_s("dense") == math.inf
    observe(model, 1, 0.001, times=1)
    time.now += 7
    assert model.since_last_batch_s("dense") == 7
    model.calibrate("int8", {1: [0.001]})
    assert model.since_last_batch_s("int8") == 0


def test_a_variant_without_any_measured_size_is_refused(time: Time) -> None:
    with pytest.raises(ValueError, match="at least one batch size"):
        LatencyModel({"dense": {}}, time)


seconds = st.floats(1e-6, 100)
cards = st.dictionaries(st.integers(1, 128), seconds, min_size=1, max_size=5)
batches = st.tuples(st.integers(1, 256), seconds, st.floats(0, MAX_OBSERVATION_AGE_S))


@given(cards, st.lists(batches, max_size=150), st.integers(1, 256))
def test_a_prediction_is_a_positive_time_whatever_was_seen(
    card: dict[int, float], seen: list[tuple[int, float, float]], size: int
) -> None:
    time = Time()
    model = LatencyModel({"dense": exactly(card)}, time)
    for own_size, took_s, pause_s in seen:
        model.observe("dense", own_size, took_s)
        time.now += pause_s
        times = model.times("dense")
        assert 0 < times.within_s(size, 0.5) <= times.within_s(size) <= times.within_s(size, 0.99)
        assert times.within_s(size) < math.inf
        assert model.best_case_s("dense", size) > 0
        assert 0 <= times.miss_probability(size, 0.5) <= 1
