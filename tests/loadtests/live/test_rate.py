from __future__ import annotations

import pytest
from click.testing import CliRunner

from loadtests.live.__main__ import main
from loadtests.live.rate import RatePoint, climb, last_held, rates_grid


def point(rate_per_s: float, attainment: float, *, is_valid: bool = True) -> RatePoint:
    return RatePoint(rate_per_s, attainment, p99_s=0.01, lag_s=0.0005, is_valid=is_valid)


def test_rates_rise_until_one_fails_twice() -> None:
    seeds: list[int] = []

    def measure(rate_per_s: float, seed: int) -> RatePoint:
        seeds.append(seed)
        return point(rate_per_s, 0.999 if rate_per_s < 400 else 0.9)

    points = climb(measure, 100, 2)
    assert [each.rate_per_s for each in points] == [100, 200, 400, 400]
    assert seeds == [0, 1, 2, 3], "every replay has requests of its own"
    assert last_held(points) == 200


def test_one_hiccup_does_not_end_the_climb() -> None:
    attained = iter([1.0, 0.5, 0.99, 0.5, 0.5])
    points = climb(lambda rate_per_s, seed: point(rate_per_s, next(attained)), 100, 1.5)
    assert [each.rate_per_s for each in points] == [100, 150, 150, 225, 225]
    assert last_held(points) == 150


def test_a_client_that_was_late_holds_no_rate() -> None:
    points = climb(
        lambda rate_per_s, seed: point(rate_per_s, 1.0, is_valid=rate_per_s < 150), 100, 1.5
    )
    assert last_held(points) == 100
    grid = rates_grid(points, "Rates")
    verdicts = [row[-1] for row in grid.rows]
    assert verdicts == ["held", *["invalid: the client was late"] * 2]
    assert grid.note == "held: 100 requests/s"


def test_where_no_rate_was_held_the_table_says_so() -> None:
    grid = rates_grid(climb(lambda rate_per_s, seed: point(rate_per_s, 0.9), 100, 2), "Rates")
    assert grid.note == "no rate was held"
    assert [row[-1] for row in grid.rows] == ["below 99 %"] * 2
    assert grid.rows[0][:4] == ("100", "90.000", "10.00", "0.50")


def test_rates_must_rise() -> None:
    with pytest.raises(ValueError, match="step above 1, got 1"):
        climb(lambda rate_per_s, seed: point(rate_per_s, 1.0), 100, 1)


@pytest.mark.parametrize("option", [("--out", "results"), ("--kill-every", "5")])
def test_what_only_finds_a_rate_writes_and_kills_nothing(option: tuple[str, str]) -> None:
    result = CliRunner().invoke(main, ["--find-rate", *option])
    assert result.exit_code == 2
    assert "--find-rate prints only: leave out --out and --kill-every." in result.output


@pytest.mark.parametrize("option", ["--rate", "--seconds", "--lag-ms", "--kill-every", "--step"])
def test_numbers_are_finite(option: str) -> None:
    result = CliRunner().invoke(main, [option, "inf"])
    assert result.exit_code == 2
    assert "inf is not a finite number" in result.output
