from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.latency import ENOUGH, FRESH_S, WINDOW, LatencyModel

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
    return LatencyModel({"dense": CARD, "int8": {1: 0.0005}}, time)


def observe(model: LatencyModel, size: int, took_s: float, times: int = ENOUGH) -> None:
    for _ in range(times):
        model.observe("dense", size, took_s)


@pytest.mark.parametrize(
    ("size", "expected_s"),
    [
        pytest.param(1, 0.001, id="a measured size"),
        pytest.param(2, 0.002, id="between two sizes: as the larger"),
        pytest.param(8, 0.002, id="the larger itself"),
        pytest.param(9, 0.008, id="just beyond it"),
        pytest.param(64, 0.008, id="the largest"),
        pytest.param(128, 0.016, id="beyond the largest: in proportion"),
        pytest.param(96, 0.012, id="beyond the largest, in between"),
    ],
)
def test_before_anything_was_seen_the_report_card_holds(
    model: LatencyModel, size: int, expected_s: float
) -> None:
    assert model.predict_s("dense", size) == pytest.approx(expected_s)
    assert model.idle_s("dense", size) == pytest.approx(expected_s)


def test_enough_observations_of_a_size_replace_its_card(model: LatencyModel) -> None:
    observe(model, 8, 0.001, ENOUGH - 1)  # half of what the card says
    assert model.predict_s("dense", 8) == 0.002, "not enough: the card"
    observe(model, 8, 0.001, 1)
    assert model.predict_s("dense", 8) == 0.001


def test_a_slowdown_that_was_seen_is_expected_of_other_sizes_and_variants(
    model: LatencyModel,
) -> None:
    observe(model, 1, 0.1, times=1)
    assert model.predict_s("dense", 64) == 0.008, "once is chance"
    observe(model, 1, 0.002, times=2)  # twice the card
    assert model.predict_s("dense", 64) == pytest.approx(2 * 0.008)
    assert model.predict_s("dense", 128) == pytest.approx(2 * 0.016)
    assert model.predict_s("int8", 1) == pytest.approx(2 * 0.0005)


def test_quick_batches_of_one_size_promise_nothing_of_another(model: LatencyModel) -> None:
    observe(model, 1, 0.0001, times=WINDOW)
    assert model.predict_s("dense", 64) == 0.008


def test_prediction_is_a_high_quantile(model: LatencyModel) -> None:
    for i in range(1, 41):
        model.observe("dense", 1, i / 1000)
    assert model.predict_s("dense", 1) == 0.039


def test_idle_is_the_best_ever_seen_however_slow_it_is_now(model: LatencyModel, time: Time) -> None:
    observe(model, 1, 0.0007, times=1)
    observe(model, 1, 0.5, times=WINDOW)
    time.now += FRESH_S
    assert model.idle_s("dense", 1) == 0.0007
    assert model.idle_s("dense", 8) == 0.002, "of the other sizes only the card is known"


def test_a_best_time_that_nobody_has_seen_for_long_is_doubted(
    model: LatencyModel, time: Time
) -> None:
    model.calibrate("dense", {1: [0.020]})
    assert model.idle_s("dense", 1) == 0.020
    time.now += FRESH_S + 1
    assert model.idle_s("dense", 1) == 0.001, "the card: one request gets tried"
    observe(model, 1, 0.015, times=1)
    assert model.idle_s("dense", 1) == 0.015


def test_calibration_replaces_the_card(model: LatencyModel) -> None:
    model.calibrate("dense", {1: [0.003, 0.9, 0.005, 0.004, 0.005], 8: [0.006], 64: [0.02, 0.03]})
    assert model.predict_s("dense", 1) == 0.005
    assert model.idle_s("dense", 1) == 0.003
    assert model.predict_s("dense", 128) == pytest.approx(0.06)
    assert model.predict_s("int8", 1) == 0.0005, "one variant's calibration says nothing of others"
    observe(model, 64, 0.06, times=2)  # twice what was calibrated
    assert model.predict_s("dense", 8) == pytest.approx(0.012)


def test_a_size_counts_towards_the_smallest_measured_one_that_holds_it(
    model: LatencyModel,
) -> None:
    observe(model, 5, 0.004)
    assert model.predict_s("dense", 8) == 0.004
    assert model.predict_s("dense", 2) == 0.004


def test_beyond_the_largest_size_observations_count_in_proportion(model: LatencyModel) -> None:
    observe(model, 128, 0.020)
    assert model.predict_s("dense", 64) == pytest.approx(0.010)
    assert model.predict_s("dense", 256) == pytest.approx(0.040)


def test_only_the_last_observations_count(model: LatencyModel) -> None:
    observe(model, 1, 0.5, times=WINDOW)
    observe(model, 1, 0.002, times=WINDOW)
    assert model.predict_s("dense", 1) == 0.002


def test_old_observations_are_forgotten(model: LatencyModel, time: Time) -> None:
    observe(model, 1, 0.5)
    time.now += FRESH_S
    assert model.predict_s("dense", 1) == 0.5, "just fresh"
    time.now += 0.001
    assert model.predict_s("dense", 1) == 0.001, "back to the card"
    assert model.predict_s("dense", 64) == 0.008, "and so for the other sizes"


def test_what_is_still_fresh_counts_on_where_too_little_is_left(
    model: LatencyModel, time: Time
) -> None:
    observe(model, 1, 0.5, times=ENOUGH)
    time.now += FRESH_S
    observe(model, 1, 0.003, times=1)
    time.now += 0.001
    assert model.predict_s("dense", 1) == 0.001, "and one alone says nothing"


def test_a_variant_without_any_measured_size_is_refused(time: Time) -> None:
    with pytest.raises(ValueError, match="at least one batch size"):
        LatencyModel({"dense": {}}, time)


seconds = st.floats(1e-6, 100)
cards = st.dictionaries(st.integers(1, 128), seconds, min_size=1, max_size=5)
batches = st.tuples(st.integers(1, 256), seconds, st.floats(0, FRESH_S))


@given(cards, st.lists(batches, max_size=150), st.integers(1, 256))
def test_a_prediction_is_a_positive_time_whatever_was_seen(
    card: dict[int, float], seen: list[tuple[int, float, float]], size: int
) -> None:
    time = Time()
    model = LatencyModel({"dense": card}, time)
    for own_size, took_s, pause_s in seen:
        model.observe("dense", own_size, took_s)
        time.now += pause_s
        assert 0 < model.idle_s("dense", size) <= model.predict_s("dense", size) * (1 + 1e-9)


@given(cards, st.data())
def test_once_enough_was_seen_a_prediction_is_within_what_was_seen(
    card: dict[int, float], data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from(sorted(card)))
    seen = data.draw(st.lists(seconds, min_size=ENOUGH, max_size=3 * WINDOW))
    model = LatencyModel({"dense": card}, Time())
    for took_s in seen:
        model.observe("dense", size, took_s)
    last = seen[-WINDOW:]
    assert min(last) <= model.predict_s("dense", size) <= max(last)


@given(st.lists(seconds, min_size=ENOUGH, max_size=WINDOW))
def test_about_95_of_100_batches_stay_within_the_prediction(seen: list[float]) -> None:
    model = LatencyModel({"dense": CARD}, Time())
    for took_s in seen:
        model.observe("dense", 1, took_s)
    within = sum(took_s <= model.predict_s("dense", 1) for took_s in seen)
    assert within >= 0.95 * len(seen)
