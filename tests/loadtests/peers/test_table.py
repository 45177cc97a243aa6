from __future__ import annotations

from loadtests.peers.measure import median_result
from loadtests.peers.table import peers_grid
from loadtests.peers.wrk import Result


def _result(requests_per_s: float, errors: int = 0) -> Result:
    return Result(requests_per_s, p50_ms=1.0, p99_ms=2.0, errors=errors)


def test_the_ratio_is_to_the_better_setting_of_mosec_at_the_same_connections() -> None:
    results = {
        ("paretoserve", 1): _result(300),
        ("paretoserve", 64): _result(500),
        ("mosec", 1): _result(600),
        ("mosec", 64): _result(1000),
        ("mosec-wait", 1): _result(100),
        ("mosec-wait", 64): _result(2000),
    }
    rows = peers_grid(results, {}, "").rows
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("paretoserve", "1", "0.50"),
        ("mosec", "1", "1.00"),
        ("mosec-wait", "1", "0.17"),
        ("paretoserve", "64", "0.25"),
        ("mosec", "64", "0.50"),
        ("mosec-wait", "64", "1.00"),
    ]


def test_without_mosec_the_ratio_is_empty() -> None:
    assert peers_grid({("uvicorn", 1): _result(5)}, {}, "").rows[0][5] == ""


def test_the_table_states_errors_and_why_a_server_is_not_available() -> None:
    grid = peers_grid({("uvicorn", 1): _result(5, errors=1234)}, {"mosec": "no wheel"}, "Note.")
    lines = grid.to_markdown().splitlines()
    assert "| uvicorn | 1 | 5 | 1.00 | 2.00 |  | 1,234 |" in lines
    assert lines[-3:] == ["mosec is not available: no wheel.", "", "Note."]


def test_a_median_result_has_the_median_of_each_field_and_all_errors() -> None:
    runs = [Result(100, 3.0, 9.0, 1), Result(300, 1.0, 7.0, 0), Result(200, 2.0, 99.0, 2)]
    assert median_result(runs) == Result(200, 2.0, 9.0, 3)
