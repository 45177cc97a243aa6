from __future__ import annotations

import logging
import sys
import warnings
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from variants.compression.quiet import quiet


def _emit() -> None:
    print("printed")
    print("printed too", file=sys.stderr)
    warnings.warn("warned", stacklevel=1)
    logging.getLogger("some.library").warning("logged")


def test_output_is_suppressed_inside_the_context(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet():
        _emit()
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_output_is_restored_after_the_context_even_after_an_exception(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="raised"), quiet():
        raise ValueError("raised")
    with pytest.warns(UserWarning, match="warned"):
        _emit()
    assert capfd.readouterr() == ("printed\n", "printed too\n")
    assert caplog.messages == ["logged"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_progress_bars_are_still_drawn(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = StringIO()
    monkeypatch.setattr(sys, stream, terminal)
    console = Console(stderr=stream == "stderr", force_terminal=True)
    with Progress(console=console, auto_refresh=False) as progress:
        task = progress.add_task("work", total=2)
        with quiet():
            print("not this", file=getattr(sys, stream))
            progress.update(task, advance=1, refresh=True)
            assert "50%" in terminal.getvalue()
    assert "not this" not in terminal.getvalue()
