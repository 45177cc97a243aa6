from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.steady import goodput
from loadtests.steady.curve import CURVE_FILE, read_curve
from loadtests.steady.curve_plot import PLOT_FILE, draw_curves
from loadtests.steady.goodput import TABLES_FILE, main
from tests.loadtests.gateway_stub import respond
from tests.loadtests.server import tiny_server
from tests.loadtests.steady.curves import curve
from tests.loadtests.steady.instant_client import instant_client
from variants.catalog import artifact


def test_a_running_service_is_measured_and_the_result_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goodput, "start_load_client", lambda: nullcontext(instant_client()))
    with tiny_server(respond) as port:
        result = CliRunner().invoke(
            main,
            ["--url", f"http://127.0.0.1:{port}", "--policy", "pareto", "--clients", "1,2",
             "--offered", "2", "--rounds", "2", "--seconds", "0.1", "--settle", "0.02",
             "--label", "before", "--out", str(tmp_path), "--markdown", "--no-real-time"],
            catch_exceptions=False,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "before: pareto, closed loop, deadline 50 ms" in result.output
    written = read_curve(tmp_path)
    assert (written.label, len(written.points)) == ("before", 12)
    assert "pareto, open loop" in (tmp_path / TABLES_FILE).read_text()
    assert (tmp_path / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def test_two_runs_are_compared(tmp_path: Path) -> None:
    for label in ("before", "after"):
        (tmp_path / label).mkdir()
        artifact.write_record(tmp_path / label / CURVE_FILE, curve(label))
    folders = [word for label in ("before", "after") for word in ("--compare", tmp_path / label)]
    out = tmp_path / "both"
    arguments = [*map(str, folders), "--out", str(out), "--markdown"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "before: of capacity | after: goodput/s" in result.output
    assert {path.name for path in out.iterdir()} == {PLOT_FILE, TABLES_FILE}


def test_compared_runs_need_different_labels(tmp_path: Path) -> None:
    artifact.write_record(tmp_path / CURVE_FILE, curve("now"))
    result = CliRunner().invoke(main, ["--compare", str(tmp_path), "--compare", str(tmp_path)])
    assert result.exit_code == 2
    assert "requires curves with different labels" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://x"], "--url requires --policy with the one policy of that service."),
        (["--clients", "", "--offered", ""], "there is nothing to do"),
        (["--clients", "1.5"], "--clients requires integers"),
        (["--clients", "0"], "0 is not positive"),
        (["--offered", "inf"], "inf is not a finite number"),
        (["--offered", "many"], "offered must be a number, got 'many'"),
        (["--seconds", "0"], "0.0 is not in the range x>0"),
        (["--connections", "some"], "'some' is not one of 'kept', 'new'"),
    ],
)
def test_bad_options_are_rejected(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_an_empty_curve_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no points"):
        draw_curves([curve().model_copy(update={"points": ()})])
