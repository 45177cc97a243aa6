"""The entry point of a host's worker process, in this process and without Ray."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest

from serving.cluster import host_worker
from serving.cluster.low_priority import NICENESS
from tests.cluster.test_low_priority import niceness

SCRIPT = """\
import json, os, sys, threading
niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
print(json.dumps([__name__, sys.argv, "imported_early" in sys.modules, niceness]))
"""
MODULE = "import os, threading; "
MODULE += "niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script that prints what it is given, and the module `imported_early` for `MODULES`."""
    (tmp_path / "imported_early.py").write_text(MODULE)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(host_worker, "MODULES", ("imported_early",))
    monkeypatch.setattr(sys, "argv", ["host_worker", str(tmp_path / "script.py"), "--port=1"])
    return str(tmp_path / "script.py")


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the module after a test, so that the next one imports it again."""
    monkeypatch.delitem(sys.modules, "imported_early", raising=False)


def test_the_script_runs_as_main_after_the_imports(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host_worker.main()
    assert json.loads(capsys.readouterr().out)[:3] == ["__main__", [script, "--port=1"], True]


def test_imports_have_low_priority_and_the_script_has_not(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = niceness()
    host_worker.main()
    imported = sys.modules["imported_early"]
    assert imported.niceness == max(before, NICENESS)
    assert json.loads(capsys.readouterr().out)[3] == before


def test_modules_are_left_to_the_script_once_the_time_is_over(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_worker, "LOW_PRIORITY_S", -1.0)
    host_worker.main()
    assert json.loads(capsys.readouterr().out)[2] is False


def test_the_command_is_one_for_a_shell() -> None:
    python, *options = shlex.split(host_worker.command())
    assert python == sys.executable
    assert options == ["-P", "-m", "serving.cluster.host_worker"]


def test_the_modules_exist() -> None:
    for module in host_worker.MODULES:
        assert importlib.util.find_spec(module) is not None
