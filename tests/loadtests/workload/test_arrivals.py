from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.workload.arrivals import (
    ARRIVALS,
    Acceleration,
    Arrivals,
    Bursts,
    Gamma,
    Poisson,
    Trace,
    Uniform,
    describe_arrivals,
    parse_arrivals,
)


def new_rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write_trace(folder: Path, counts: list[int]) -> Path:
    file = folder / "counts.csv"
    rows = "".join(f"{second},{count}\n" for second, count in enumerate(counts))
    file.write_text("second,arrivals\n" + rows)
    return file


def count_by_window(
    times: npt.NDArray[np.float64], seconds: float, windows: int
) -> npt.NDArray[np.int64]:
    return np.histogram(times, bins=windows, range=(0, seconds))[0]


@pytest.mark.parametrize(
    ("arrivals", "tolerance"),
    [
        (Uniform(), 1e-4),
        (Poisson(), 0.01),
        (Gamma(cv2=0.5), 0.01),
        (Gamma(cv2=8), 0.02),
        (Bursts(extra=3, cv2=8), 0.02),
    ],
)
def test_the_mean_rate_is_the_given_one(arrivals: Arrivals, tolerance: float) -> None:
    times = arrivals.draw_times(new_rng(), 2_000, 100)
    assert len(times) / 100 == pytest.approx(2_000, rel=tolerance)


@pytest.mark.parametrize(("arrivals", "cv2"), [(Uniform(), 0), (Poisson(), 1), (Gamma(cv2=4), 4)])
def test_the_variation_of_the_gaps_is_that_of_the_process(arrivals: Arrivals, cv2: float) -> None:
    gaps = np.diff(arrivals.draw_times(new_rng(), 2_000, 100))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.05, abs=1e-12)


def test_bursts_have_a_base_without_pauses() -> None:
    times = Bursts(extra=3, cv2=8).draw_times(new_rng(), 1_000, 400)
    assert np.diff(times).max() == pytest.approx(1 / 250)
    # Only the stream varies: variance over mean of the counts is cv2 times its share of the rate.
    counts = count_by_window(times, 400, 800)
    assert counts.var() / counts.mean() == pytest.approx(8 * 3 / 4, rel=0.15)


@pytest.mark.parametrize(
    ("to", "per_s"),
    [
        pytest.param(3, 0.5, id="reaches the rate"),
        pytest.param(3, 0.1, id="ends before it reaches the rate"),
        pytest.param(0.25, 0.1, id="slows down"),
        pytest.param(1, 0.5, id="constant"),
        pytest.param(2, 1e6, id="a step"),
    ],
)
def test_an_accelerating_rate_is_exact_at_every_time(to: float, per_s: float) -> None:
    # With equal gaps in expected arrivals, the count differs from the integral by at most one.
    times = Acceleration(to=to, per_s=per_s, cv2=0).draw_times(new_rng(), 1_000, 20)
    grid_s = np.linspace(0, 20, 200_001)
    ramp = 1 + np.sign(to - 1) * per_s * np.maximum(0, grid_s - 5)
    rate_per_s = 1_000 * np.clip(ramp, min(1, to), max(1, to))
    steps = (rate_per_s[1:] + rate_per_s[:-1]) / 2 * np.diff(grid_s)
    expected = np.concatenate([[0], np.cumsum(steps)])
    assert np.abs(np.searchsorted(times, grid_s) - expected).max() < 1.2


def test_accelerating_arrivals_have_the_given_variation() -> None:
    after = Acceleration(to=3, per_s=100, cv2=8).draw_times(new_rng(), 1_000, 100)
    gaps = np.diff(after[after > 30])
    assert gaps.mean() == pytest.approx(1 / 3_000, rel=0.02)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(8, rel=0.05)


def test_rounding_keeps_the_order_of_arrivals() -> None:
    # Arrivals of one burst differ in their last digits; 3 % of these seeds need the correction.
    for seed in range(300):
        times = Acceleration(to=4, per_s=3, cv2=1_000).draw_times(new_rng(seed), 1_000, 1)
        assert (np.diff(times) >= 0).all()


def test_a_trace_keeps_its_shape_and_has_the_given_mean_rate(tmp_path: Path) -> None:
    trace = Trace(write_trace(tmp_path, [10, 0, 30, 0, 0, 20]), cv2=0)
    counts = count_by_window(trace.draw_times(new_rng(), 1_000, 6), 6, 6)
    np.testing.assert_allclose(counts, [1_000, 0, 3_000, 0, 0, 2_000], atol=1)


def test_a_shorter_duration_uses_the_first_part_of_a_trace(tmp_path: Path) -> None:
    trace = Trace(write_trace(tmp_path, [10, 30, 1_000]), cv2=0)
    # With half of the second row, 10 + 15 arrivals in 1.5 s; 60 each give 1,000 per second.
    counts = count_by_window(trace.draw_times(new_rng(), 1_000, 1.5), 1.5, 3)
    np.testing.assert_allclose(counts, [300, 300, 900], atol=1)


def test_a_trace_can_be_played_faster(tmp_path: Path) -> None:
    trace = Trace(write_trace(tmp_path, [10, 30]), seconds_per_row=0.1, cv2=0)
    counts = count_by_window(trace.draw_times(new_rng(), 1_000, 0.2), 0.2, 2)
    np.testing.assert_allclose(counts, [50, 150], atol=1)


@pytest.mark.parametrize("cv2", [1, 4])
def test_arrivals_within_the_rows_of_a_trace_are_random(tmp_path: Path, cv2: float) -> None:
    trace = Trace(write_trace(tmp_path, [5, 15] * 1_000), cv2=cv2)
    times = trace.draw_times(new_rng(), 200, 2_000)
    counts = count_by_window(times, 2_000, 2_000)
    for rows, mean in ((counts[::2], 100), (counts[1::2], 300)):
        assert rows.mean() == pytest.approx(mean, rel=0.03)
        assert rows.var() / rows.mean() == pytest.approx(cv2, rel=0.15)


def test_a_trace_that_is_too_short_or_empty_is_rejected(tmp_path: Path) -> None:
    trace = Trace(write_trace(tmp_path, [0, 5]))
    message = r"lasts 2 s; take at most that instead of 3 s, or seconds_per_row of at least 1\.5"
    with pytest.raises(ValueError, match=message):
        trace.draw_times(new_rng(), 1, 3)
    with pytest.raises(ValueError, match="has no arrivals in its first 1 s"):
        trace.draw_times(new_rng(), 1, 1)


CV2 = st.floats(0, 1_000)
ABOVE_0 = st.floats(1e-3, 1e3)
PROCESSES: st.SearchStrategy[Arrivals] = st.one_of(
    st.just(Uniform()),
    st.just(Poisson()),
    st.builds(Gamma, CV2),
    st.builds(Bursts, ABOVE_0, CV2),
    st.builds(Acceleration, st.floats(0.01, 10), ABOVE_0, CV2),
)


def check(arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int) -> None:
    times = arrivals.draw_times(new_rng(seed), rate_per_s, seconds)
    assert times.dtype == np.float64
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < seconds)).all()
    np.testing.assert_array_equal(times, arrivals.draw_times(new_rng(seed), rate_per_s, seconds))


@given(PROCESSES, st.floats(1e-3, 1e3), st.floats(1e-3, 2), st.integers(0, 2**32))
def test_times_are_ordered_bounded_and_determined_by_the_seed(
    arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int
) -> None:
    check(arrivals, rate_per_s, seconds, seed)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(lambda counts: counts[0] > 0),
    ABOVE_0,
    st.floats(1e-3, 1),
    CV2,
    st.integers(0, 2**32),
)
def test_times_of_any_trace_are_ordered_bounded_and_determined_by_the_seed(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    seconds_per_row: float,
    part: float,
    cv2: float,
    seed: int,
) -> None:
    trace = Trace(write_trace(tmp_path_factory.mktemp("trace"), counts), seconds_per_row, cv2)
    seconds = len(counts) * seconds_per_row * part
    check(trace, 500 / seconds, seconds, seed)


def test_different_seeds_give_different_times() -> None:
    for arrivals in (Uniform(), Poisson(), Bursts(extra=1, cv2=2), Acceleration(to=2, per_s=1)):
        first, second = (arrivals.draw_times(new_rng(seed), 100, 1) for seed in (1, 2))
        assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("text", "arrivals", "described"),
    [
        ("uniform", Uniform(), "uniform"),
        ("poisson", Poisson(), "poisson"),
        (" gamma : cv2 = 4 ", Gamma(cv2=4), "gamma cv2=4"),
        ("bursts:extra=2,cv2=8", Bursts(extra=2, cv2=8), "bursts extra=2 cv2=8"),
        (
            "acceleration:per_s=.5,to=3",
            Acceleration(to=3, per_s=0.5),
            "acceleration to=3 per_s=0.5",
        ),
        (
            "trace:path=some/hour.csv,cv2=4",
            Trace(Path("some/hour.csv"), cv2=4),
            "trace hour.csv cv2=4",
        ),
    ],
)
def test_arrivals_are_parsed_and_described(text: str, arrivals: Arrivals, described: str) -> None:
    assert parse_arrivals(text) == arrivals
    assert describe_arrivals(arrivals) == described


def test_the_table_has_every_kind_and_fields_are_numbers_or_a_path() -> None:
    assert set(ARRIVALS.values()) == set(get_args(Arrivals))
    for process in ARRIVALS.values():
        types = {field.name: field.type for field in fields(process)}
        assert types.pop("path", "Path") == "Path"
        assert set(types.values()) <= {"float"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "unknown kind of arrivals ''; the kinds are uniform, poisson, gamma, bursts, "
            "acceleration, trace",
        ),
        ("pareto:cv2=4", "unknown kind of arrivals 'pareto'; the kinds are uniform, poisson"),
        ("poisson:cv2=4", "'poisson:cv2=4': unknown key 'cv2'; there are no keys"),
        ("bursts:extra=1,cv=4", "unknown key 'cv'; the keys are extra, cv2"),
        ("gamma", "'gamma': needs cv2=VALUE"),
        ("bursts:", "unknown key ''; the keys are extra, cv2"),
        ("acceleration:cv2=1", "needs to=VALUE,per_s=VALUE"),
        ("gamma:cv2", "cv2 requires a value: cv2=VALUE"),
        ("gamma:cv2=", "cv2 requires a value: cv2=VALUE"),
        ("gamma:cv2=1,cv2=2", "cv2 is repeated"),
        ("gamma:cv2=four", "cv2 must be a number, got 'four'"),
        ("gamma:cv2=-1", "must be from 0 (equal gaps) over 1 (Poisson) to 1000, got -1"),
        ("bursts:extra=0,cv2=1", "extra must be a number above 0, got 0"),
        ("acceleration:to=0,per_s=1", "to must be a number above 0, got 0"),
        ("acceleration:to=2,per_s=inf", "per_s must be a number above 0, got inf"),
        ("trace:path=a.csv,seconds_per_row=nan", "seconds_per_row must be a number above 0"),
    ],
)
def test_invalid_text_is_rejected_with_the_valid_values(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="arrivals") as caught:
        parse_arrivals(text)
    assert message in str(caught.value)
