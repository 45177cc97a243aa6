from __future__ import annotations

from click.testing import CliRunner

from loadtests.benchmarks.idle_connections import main, measure


def test_an_idle_connection_takes_some_kibibytes() -> None:
    assert 0 < measure(500) < 500 * 64 * 1024


def test_too_many_connections_are_refused_with_what_to_do() -> None:
    result = CliRunner().invoke(main, ["--connections", "100000000"])
    assert result.exit_code == 1
    assert "ulimit -n" in result.output
