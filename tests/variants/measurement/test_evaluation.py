from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from variants.catalog.catalog import Model, TensorSpec
from variants.measurement.evaluation import (
    BATCH_SIZE,
    Z,
    accuracy,
    accuracy_difference,
    agreement,
    compute_scores,
    newcombe_interval,
    wilson_interval,
    z_score,
)

MODEL = Model(
    name="m",
    factory="m:f",
    weights_sha256="",
    datasets_sha256="",
    inputs=(TensorSpec(name="pixels", datatype="FP32", shape=(-1, 3)),),
    outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
)
COUNT = st.integers(0, 2000)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        pytest.param(81, 263, 0.2553, 0.3662, id="Newcombe 1998, table I: 81 of 263"),
        pytest.param(15, 148, 0.0624, 0.1605, id="Newcombe 1998, table I: 15 of 148"),
        pytest.param(0, 20, 0.0, 0.1611, id="Newcombe 1998, table I: 0 of 20"),
        pytest.param(1, 29, 0.0061, 0.1718, id="Newcombe 1998, table I: 1 of 29"),
        pytest.param(10, 10, 0.7225, 1.0, id="all of 10"),
    ],
)
def test_wilson_intervals_match_published_ones(
    successes: int, trials: int, low: float, high: float
) -> None:
    interval = wilson_interval(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_wilson_intervals_contain_the_share_stay_in_range_and_are_symmetric(
    trials: int, share: float
) -> None:
    successes = round(share * trials)
    interval, mirrored = (
        wilson_interval(successes, trials),
        wilson_interval(trials - successes, trials),
    )
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert (interval.low, interval.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_rejects_invalid_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        pytest.param((36, 12, 2, 0), 0.0569, 0.3404, id="Newcombe 1998, method 10"),
        pytest.param((1, 1, 7, 12), -0.507, -0.026, id="Fagerland et al. 2014, airways"),
    ],
)
def test_newcombe_intervals_match_published_ones(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    both, first, second, neither = table
    interval = newcombe_interval(both=both, first=first, second=second, neither=neither)
    assert interval.value == pytest.approx((first - second) / sum(table))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)


@given(COUNT, COUNT, COUNT, COUNT.map(lambda count: count + 1))
def test_newcombe_intervals_contain_the_difference_stay_in_range_and_are_symmetric(
    both: int, first: int, second: int, neither: int
) -> None:
    interval = newcombe_interval(both=both, first=first, second=second, neither=neither)
    mirrored = newcombe_interval(both=both, first=second, second=first, neither=neither)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low))


@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_the_interval_without_disagreement_contains_0_and_is_not_wider_than_unpaired(
    both: int, neither: int
) -> None:
    interval = newcombe_interval(both=both, first=0, second=0, neither=neither)
    alone = wilson_interval(both, both + neither)
    unpaired = np.hypot(alone.value - alone.low, alone.high - alone.value)
    assert interval.low < 0 < interval.high <= unpaired * (1 + 1e-9)


def test_the_interval_for_ten_thousand_samples_without_disagreement() -> None:
    interval = newcombe_interval(both=9_000, first=0, second=0, neither=1_000)
    assert (interval.low, interval.high) == pytest.approx((-0.000364, 0.000364), abs=1e-6)


def test_newcombe_intervals_cover_the_true_difference_in_95_percent_of_simulations() -> None:
    shares = (0.85, 0.03, 0.05, 0.07)
    truth = shares[1] - shares[2]
    tables = np.random.default_rng(0).multinomial(1000, shares, size=3000).tolist()
    intervals = [newcombe_interval(both=a, first=b, second=c, neither=d) for a, b, c, d in tables]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.94 <= covered <= 0.965  # 0.95, and three standard errors of the simulation


def test_a_paired_interval_can_be_significant_where_separate_intervals_overlap() -> None:
    labels = np.zeros(10_000, dtype=np.int64)
    dense = np.repeat([0, 1], [9_000, 1_000])
    variant = np.repeat([0, 1], [9_040, 960])  # 40 more are correct, none fewer
    assert accuracy_difference(variant, dense, labels).low > 0
    assert accuracy(variant, labels).low < accuracy(dense, labels).high


def test_accuracy_agreement_and_difference_use_the_right_counts() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    dense = np.array([0, 0, 0, 1, 1, 2, 2, 1])
    variant = np.array([0, 0, 1, 0, 0, 0, 2, 2])
    assert accuracy(variant, labels) == wilson_interval(5, 8)
    assert agreement(variant, dense) == wilson_interval(3, 8)
    difference = accuracy_difference(variant, dense, labels)
    assert difference == newcombe_interval(both=2, first=3, second=2, neither=1)


def test_arrays_of_unequal_length_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\[3\] and \[1\]"):
        accuracy(np.zeros(3, dtype=np.int64), np.zeros(1, dtype=np.int64))


def test_scores_are_returned_in_the_order_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    count = 2 * BATCH_SIZE + 7
    samples = {
        "pixels": rng.random((count, 3), dtype=np.float32),
        "scale": rng.random((count, 1), dtype=np.float32),
    }
    sizes: list[int] = []
    fractions: list[float] = []

    def runner(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        sizes.append(len(inputs["pixels"]))
        return {"scores": inputs["pixels"] * inputs["scale"]}

    scores = compute_scores(runner, MODEL, samples, fractions.append)
    assert np.array_equal(scores, samples["pixels"] * samples["scale"])
    assert sizes == [BATCH_SIZE, BATCH_SIZE, 7]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        pytest.param(np.full((2, 3), np.nan), "NaN or infinity", id="NaN"),
        pytest.param(np.full((2, 3), np.inf), "NaN or infinity", id="infinity"),
        pytest.param(np.zeros(2), r"must be \[2, classes\], got \[2\]", id="one dimension"),
        pytest.param(np.zeros((1, 3)), r"got \[1, 3\]", id="a missing row"),
    ],
)
def test_invalid_scores_are_rejected(scores: NDArray[Any], message: str) -> None:
    samples = {"pixels": np.zeros((2, 3), dtype=np.float32)}
    with pytest.raises(ValueError, match=message):
        compute_scores(lambda inputs: {"scores": scores}, MODEL, samples)


def test_the_width_of_an_interval_follows_its_confidence() -> None:
    assert z_score(0.95) == pytest.approx(Z)
    assert z_score(0.99) == pytest.approx(2.575829)
    usual, wider = wilson_interval(500, 1000), wilson_interval(500, 1000, z=z_score(0.99))
    assert (wider.high - wider.low) / (usual.high - usual.low) == pytest.approx(1.3131, abs=1e-3)
    counts = {"both": 90_000, "first": 4_000, "second": 4_000, "neither": 2_000}
    usual, wider = (newcombe_interval(**counts, z=z) for z in (Z, 2 * Z))
    assert wider.high / usual.high == pytest.approx(2, abs=0.01)
