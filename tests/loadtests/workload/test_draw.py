import numpy as np
import pytest

from loadtests.workload.arrivals import Gamma, Poisson
from loadtests.workload.draw import draw
from loadtests.workload.mix import parse_mix

CLASSES = parse_mix(["name=a,latency_ms=20", "name=b,share=2,size=4", "name=c"])


def test_a_workload_has_the_given_rate_and_shares_and_a_name_with_them() -> None:
    workload = draw(Gamma(cv2=4), CLASSES, 5_000, 20, seed=1)
    assert workload.name == "gamma cv2=4, 5,000/s"
    assert workload.seconds == 20
    assert workload.classes == CLASSES
    assert len(workload) / 20 == pytest.approx(5_000, rel=0.02)
    assert workload.class_of.dtype == np.int16
    shares = np.bincount(workload.class_of) / len(workload)
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.01)
    assert workload.sizes.mean() == pytest.approx(2.5, rel=0.02)
    assert set(workload.latencies_s) == {0.02, np.inf}


def test_classes_are_independent_of_each_other_and_of_the_gaps() -> None:
    workload = draw(Poisson(), CLASSES, 5_000, 20, seed=1)
    is_b = workload.class_of == 1
    assert abs(np.corrcoef(is_b[1:], is_b[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(is_b[1:], np.diff(workload.arrivals_s))[0, 1]) < 0.01


def test_the_seed_determines_a_workload_and_arrivals_do_not_depend_on_classes() -> None:
    first, same, other = (draw(Poisson(), CLASSES, 100, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.arrivals_s, same.arrivals_s)
    np.testing.assert_array_equal(first.class_of, same.class_of)
    assert not np.array_equal(first.arrivals_s, other.arrivals_s)
    alone = draw(Poisson(), CLASSES[:1], 100, 5, seed=1)
    np.testing.assert_array_equal(first.arrivals_s, alone.arrivals_s)
    assert not alone.class_of.any()


def test_a_workload_may_be_empty() -> None:
    assert len(draw(Poisson(), CLASSES, 1e-6, 1, seed=0)) == 0


@pytest.mark.parametrize(
    ("rate_per_s", "text"), [(1_234_567, "1,234,567/s"), (99.96, "100/s"), (0.25, "0.25/s")]
)
def test_the_rate_in_the_name_is_rounded(rate_per_s: float, text: str) -> None:
    assert draw(Poisson(), CLASSES, rate_per_s, 0.1, seed=0).name == f"poisson, {text}"


@pytest.mark.parametrize(
    ("rate_per_s", "seconds", "message"),
    [
        (0, 1, "rate_per_s must be a number above 0, got 0"),
        (float("inf"), 1, "rate_per_s must be a number above 0, got inf"),
        (1, -1, "seconds must be a number above 0, got -1"),
        (1e9, 1, "about 1,000,000,000 requests exceed the maximum of 100,000,000"),
    ],
)
def test_invalid_rates_and_durations_are_rejected(
    rate_per_s: float, seconds: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(Poisson(), CLASSES, rate_per_s, seconds, seed=0)


def test_a_workload_requires_classes() -> None:
    with pytest.raises(ValueError, match="requires at least one class"):
        draw(Poisson(), (), 1, 1, seed=0)
