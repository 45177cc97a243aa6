from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from loadtests.steady import predictions
from loadtests.steady.load import LoadRecord
from loadtests.steady.prediction_error import Predictions, predictions_grid, sample_predictions
from loadtests.steady.predictions import main
from tests.loadtests.gateway_stub import respond
from tests.loadtests.server import ok, tiny_server

ANSWER = b'{"model_version": "int8", "parameters": {"predicted_latency_ms": 20.0}}'


def record(**contents: bytes) -> LoadRecord:
    return LoadRecord(
        started_s=100.0,
        due_s=np.array([100.1, 100.6, 100.7]),
        ended_s=np.array([100.11, 100.61, 100.74]),
        http_status=np.full(3, 200, np.int16),
        delays_s=np.zeros(1),
        cpu_share=0.0,
        contents={int(key.strip("n")): value for key, value in contents.items()},
    )


def test_samples_are_compared_with_what_the_client_saw() -> None:
    samples = sample_predictions(record(n0=ANSWER, n1=ANSWER, n2=ANSWER), "pareto", "idle", 0.5)
    assert samples.predicted_ms == (20.0, 20.0)
    assert samples.actual_ms == pytest.approx((10.0, 40.0))


def test_an_answer_without_a_prediction_is_an_error() -> None:
    content = b'{"model_version": "int8", "parameters": {}}'
    with pytest.raises(ValueError, match="the answer has no predicted_latency_ms"):
        sample_predictions(record(n1=content), "pareto", "idle", 0.0)


def test_rows_pool_the_rounds() -> None:
    first = Predictions(
        policy="pareto", load="idle", predicted_ms=(20.0, 20.0), actual_ms=(10.0, 40.0)
    )
    second = Predictions(policy="pareto", load="idle", predicted_ms=(30.0,), actual_ms=(10.0,))
    none = Predictions(policy="pareto", load="3 x capacity", predicted_ms=(), actual_ms=())
    grid = predictions_grid([first, none, second], "Predictions")
    row = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert (row["answers"], row["predicted, ms"], row["actual, ms"]) == ("3", "20.0", "10.0")
    assert row["ratio p50"] == "2.00"
    assert row["within a factor of 2, %"] == "66.7"
    assert row["within the prediction, % [95 % interval]"].startswith("66.7 [")
    assert grid.rows[1] == ("pareto", "3 x capacity", "0", *["-"] * 8)
    assert len(grid.rows[1]) == len(grid.columns)


def test_a_running_service_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PAUSE_S", 0.0)

    def predict(number: int, head: bytes) -> object:
        return ok(ANSWER) if b"/shirts/infer" in head.split()[1] else respond(number, head)

    with tiny_server(predict) as port:  # type: ignore[arg-type]
        result = CliRunner().invoke(
            main,
            ["--url", f"http://127.0.0.1:{port}", "--offered", "0.5", "--rounds", "1",
             "--seconds", "0.3", "--settle", "0.05", "--markdown", "--no-real-time",
             "--out", str(tmp_path)],
            catch_exceptions=False,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = (tmp_path / predictions.TABLES_FILE).read_text()
    loads = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| pareto")]
    assert loads == ["idle", "0.5 x capacity", "idle, 0 s after 0.5 x capacity"]


def test_a_url_has_one_policy() -> None:
    result = CliRunner().invoke(main, ["--url", "http://x", "--policy", "pareto,fifo"])
    assert result.exit_code == 2
    assert "--url requires --policy" in result.output
