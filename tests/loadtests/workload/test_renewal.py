import numpy as np
import pytest

from loadtests.workload.renewal import MAX_ARRIVALS, check_cv2, draw_stream


@pytest.mark.parametrize("cv2", [0, 1e-300, 0.25, 1, 4, 8])
def test_gaps_have_mean_1_and_the_given_variation(cv2: float) -> None:
    gaps = np.diff(draw_stream(np.random.default_rng(1), cv2, 400_000))
    assert gaps.mean() == pytest.approx(1, rel=0.015)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.05, abs=1e-6)


def test_gaps_with_cv2_1_are_exponential() -> None:
    gaps = np.diff(draw_stream(np.random.default_rng(2), 1, 200_000))
    for quantile in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(gaps, quantile) == pytest.approx(-np.log(1 - quantile), rel=0.02)


@pytest.mark.parametrize("cv2", [0, 0.25, 1, 8])
def test_a_short_stream_has_the_expected_number_of_arrivals(cv2: float) -> None:
    # With an ordinary first gap it would have up to (cv2 - 1) / 2 more: 13.5 if cv2 is 8.
    rng = np.random.default_rng(3)
    counts = [len(draw_stream(rng, cv2, 10)) for _ in range(4_000)]
    assert np.mean(counts) == pytest.approx(10, abs=0.4)


def test_the_rate_of_a_stream_is_constant() -> None:
    rng = np.random.default_rng(4)
    times = np.concatenate([draw_stream(rng, 8, 10) for _ in range(4_000)])
    counts, _ = np.histogram(times, bins=5, range=(0, 10))
    np.testing.assert_allclose(counts / 4_000, 2, atol=0.2)


def test_too_many_arrivals_are_rejected_before_they_are_drawn() -> None:
    with pytest.raises(ValueError, match=r"exceed the maximum of 100,000,000; lower the rate"):
        draw_stream(np.random.default_rng(0), 1, MAX_ARRIVALS + 1)


@pytest.mark.parametrize("cv2", [-0.1, 1001, float("nan"), float("inf")])
def test_an_invalid_cv2_is_rejected(cv2: float) -> None:
    with pytest.raises(ValueError, match=r"from 0 \(equal gaps\) over 1 \(Poisson\) to 1000, got"):
        check_cv2(cv2)
