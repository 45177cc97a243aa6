from __future__ import annotations

from collections.abc import Mapping

from loadtests.steady.curve_tables import compared_grids, curve_grids
from loadtests.trials.grid import Grid
from tests.loadtests.steady.curves import curve


def rows(grid: Grid) -> Mapping[str, Mapping[str, str]]:
    return {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}


def test_a_row_is_a_load_with_means_over_rounds() -> None:
    closed, opened = curve_grids(curve())
    assert closed.title == "pareto, closed loop, deadline 50 ms"
    table = rows(closed)
    # 90 and 100: half a width of 12.7062 * 7.0711 / sqrt 2
    assert table["1"]["goodput/s"] == "95 ±64"
    assert table["1"]["with the loose deadline"] == "100 ±0"
    assert table["1"]["ratio"] == "0.950 ±0.635", "the ratio is paired by round"
    assert table["1"]["of capacity"] == "0.475 ±0.318"
    assert table["64"]["ratio"] == "0.000 ±0.000"
    assert (table["64"]["refused, %"], table["64"]["late, %"]) == ("95.0", "5.0")
    assert (table["64"]["p50, ms"], table["64"]["client CPU, %"]) == ("12.0", "30")
    assert rows(opened)["20"]["ratio"] == "-", "one round has no answer to compare with"
    assert closed.note.endswith("2 rounds.")


def test_loads_in_which_the_client_was_the_bottleneck_are_marked() -> None:
    closed, _ = curve_grids(curve(client_cpu_share=0.9))
    assert rows(closed)["1"]["goodput/s"] == "95 ±64*"


def test_curves_are_compared_side_by_side() -> None:
    grids = compared_grids([curve("before"), curve("after"), curve("other", policy="fifo")])
    assert [grid.title.split(",")[0] for grid in grids] == ["pareto", "pareto", "fifo", "fifo"]
    row = rows(grids[0])["1"]
    assert row["before: goodput/s"] == row["after: goodput/s"] == "95 ±64"
    assert row["after: ratio"] == "0.950 ±0.635"
    assert row["other: ratio"] == "-"
