from __future__ import annotations

import io

from rich.console import Console

from paretoserve.terminal import LogLines


def _lines() -> tuple[LogLines, list[float], io.StringIO]:
    now, output = [0.0], io.StringIO()
    return LogLines(Console(file=output), interval_s=10, clock=lambda: now[0]), now, output


def test_a_long_stage_has_a_line_every_interval_with_the_time_left() -> None:
    progress, now, output = _lines()
    with progress:
        task = progress.add_task("measuring latency", total=200)
        for _ in range(200):
            now[0] += 1
            progress.advance(task)
    lines = output.getvalue().splitlines()
    assert lines[:2] == ["measuring latency", "measuring latency: 5%, about 3 min 10 s left"]
    assert lines[-1] == "measuring latency: done in 3 min 20 s"
    assert len(lines) == 1 + 19 + 1


def test_a_short_stage_has_one_line() -> None:
    progress, now, output = _lines()
    with progress:
        for _ in progress.track(range(100), description="calibration"):
            now[0] += 0.01
    assert output.getvalue().splitlines() == ["calibration"]
