from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from loadtests.peers import peer, target
from loadtests.peers.exchange import raw, unread
from loadtests.peers.measure import Measurement, measure
from loadtests.peers.process import run_child
from loadtests.peers.target import Running, Scenario, Target
from tests.loadtests.server import ok, tiny_server

SERVERS = Path(peer.__file__).with_name("servers")
FEATURES = np.arange(4, dtype=np.float32)
LOGITS = np.array([1, -2], np.float32)


def _baseline() -> Target:
    exchange = unread("/", FEATURES)
    uvicorn = peer.Peer("uvicorn", "uvicorn_server", "", (peer.PORT,), exchange)
    return peer.target(uvicorn, {}, lambda name: None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_the_baseline_is_served_driven_and_stopped() -> None:
    measurement = Measurement()
    before = set(psutil.Process().children(recursive=True))
    measure([_baseline()], [2], 1, 1.0, measurement, lambda text: None)
    assert measurement.unavailable == {}
    result = measurement.results()["uvicorn", 2]
    assert result.errors == 0
    assert result.requests_per_s > 0
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize("program", sorted(SERVERS.glob("*.py")), ids=lambda path: path.stem)
def test_server_programs_import_nothing_of_paretoserve(program: Path) -> None:
    own = {"paretoserve", "serving", "variants", "examples"}
    for node in ast.walk(ast.parse(program.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
        for name in names:
            assert name.partition(".")[0] not in own
            assert not name.startswith("loadtests.") or name == "loadtests.peers.servers"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (np.array([1, -2.1], np.float32).tobytes(), "wrong logits"),
        (np.array([1, -2, 3], np.float32).tobytes(), "wrong logits"),
        (np.array([1, np.nan], np.float32).tobytes(), "wrong logits"),
        (b"\0\0\0", "unexpected response"),
    ],
)
def test_a_wrong_answer_is_refused(body: bytes, reason: str) -> None:
    scenario = Scenario("x", raw("/", FEATURES), {"dense": LOGITS})
    with (
        tiny_server(lambda number, head: ok(body)) as port,
        pytest.raises(RuntimeError, match=reason),
    ):
        target.verify(Running(port, lambda: None), scenario)


def test_an_answer_within_the_tolerance_is_accepted() -> None:
    scenario = Scenario("x", raw("/", FEATURES), {"dense": LOGITS})
    body = (LOGITS + np.float32(5e-5)).tobytes()
    with tiny_server(lambda number, head: ok(body)) as port:
        target.verify(Running(port, lambda: None), scenario)


def test_a_server_that_ends_is_reported_with_its_output_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    scenario = Scenario("broken", raw("/", FEATURES), {})
    started: list[str] = []

    @contextmanager
    def start() -> Iterator[Running]:
        command = [sys.executable, "-c", "raise SystemExit('no such model')"]
        with run_child(command, tmp_path / "log") as child:
            yield Running(1, child.require_running)

    measurement = Measurement()
    targets = [Target("broken", start, (scenario,)), Target("other", start, (scenario,))]
    measure(targets, [1], 2, 1.0, measurement, started.append)
    assert "no such model" in measurement.unavailable["broken"]
    assert started == ["round 1 of 2: broken", "round 1 of 2: other"]


def test_a_child_and_its_children_in_other_sessions_end_with_the_block(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)\n"
        "time.sleep(600)"
    )
    log = tmp_path / "log"
    with run_child([sys.executable, "-c", code], log) as child:
        while not log.read_text().strip():
            child.require_running()
        grandchild = psutil.Process(int(log.read_text()))
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
