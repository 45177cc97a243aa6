from __future__ import annotations

import pytest
from click.testing import CliRunner

from loadtests.live.__main__ import main
from loadtests.live.rate import RatePoint, highest_sustained_rate, measure_rising_rates, rates_grid


def point(rate_per_s: float, attainment: float, *, is_valid: bool = True) -> RatePoint:
    return RatePoint(
        rate_per_s, attainment, p99_s=0.01, client_delay_p99_s=0.0005, is_valid=is_valid
    )


def test_rates_rise_until_one_fails_twice() -> None:
    seeds: list[int] = []

    def measure(rate_per_s: float, seed: int) -> RatePoint:
        seeds.append(seed)
        return point(rate_per_s, 0.999 if rate_per_s < 400 else 0.9)

    points = measure_rising_rates(measure, 100, 2)
    assert [each.rate_per_s for each in points] == [100, 200, 400, 400]
    assert seeds == [0, 1, 2, 3], "every replay draws its own requests"
    assert highest_sustained_rate(points) == 200


def test_one_failure_does_not_end_the_search() -> None:
    attainments = iter([1.0, 0.5, 0.99, 0.5, 0.5])
    points = measure_rising_rates(
        lambda rate_per_s, seed: point(rate_per_s, next(attainments)), 100, 1.5
    )
    assert [each.rate_per_s for each in points] == [100, 150, 150, 225, 225]
    assert highest_sustained_rate(points) == 150


def test_a_rate_with_a_late_client_is_not_sustained() -> None:
    points = measure_rising_rates(
        lambda rate_per_s, seed: point(rate_per_s, 1.0, is_valid=rate_per_s < 150), 100, 1.5
    )
    assert highest_sustained_rate(points) == 100
    grid = rates_grid(points, "Rates")
    verdicts = [row[-1] for row in grid.rows]
    assert verdicts == ["sustained", *["invalid: the client was late"] * 2]
    assert grid.note == "sustained: 100 requests/s"


def test_the_note_reports_that_no_rate_was_sustained() -> None:
    grid = rates_grid(
        measure_rising_rates(lambda rate_per_s, seed: point(rate_per_s, 0.9), 100, 2), "Rates"
    )
    assert grid.note == "no rate was sustained"
    assert [row[-1] for row in grid.rows] == ["below 99 %"] * 2
    assert grid.rows[0][:4] == ("100", "90.000", "10.00", "0.50")


def test_rates_must_rise() -> None:
    with pytest.raises(ValueError, match="step must be above 1 so that rates rise, got 1"):
        measure_rising_rates(lambda rate_per_s, seed: point(rate_per_s, 1.0), 100, 1)


@pytest.mark.parametrize("option", [("--out", "results"), ("--kill-every", "5")])
def test_find_rate_rejects_options_for_files_and_kills(option: tuple[str, str]) -> None:
    result = CliRunner().invoke(main, ["--find-rate", *option])
    assert result.exit_code == 2
    assert "--find-rate only prints: omit --out and --kill-every." in result.output


@pytest.mark.parametrize("option", ["--rate", "--seconds", "--lag-ms", "--kill-every", "--step"])
def test_number_options_reject_infinity(option: str) -> None:
    result = CliRunner().invoke(main, [option, "inf"])
    assert result.exit_code == 2
    assert "inf is not a finite number" in result.output
