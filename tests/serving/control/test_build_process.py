from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from serving.control.build_process import BuildCancelled, BuildFailed, run_build
from serving.control.settings import Builder
from tests.waiting import GIVE_UP_S, wait_until
from variants.catalog import generations
from variants.catalog.artifact import DRAFTS
from variants.catalog.build_request import BuildRequest
from variants.catalog.recipe import Step

REQUEST = BuildRequest(
    project=Path("/p.yaml"), catalog=Path("/c"), name="new", number=1, recipe=(), threads=1
)
PROLOGUE = """
import json, os, subprocess, sys, time
request = json.loads(sys.stdin.readline())
def emit(**event): print(json.dumps(event), flush=True)
def wait_for(file):
    while not os.path.exists(file): time.sleep(0.01)
"""


@dataclass
class Observer:
    """Collects what a build reports, and cancels it on demand."""

    progress: list[tuple[str, float]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    is_cancelled: Callable[[], bool] = lambda: False

    def run(self, script: str, **limits: float) -> str:
        """Run a script in place of the builder, with the request in `request`."""
        return run_build(
            REQUEST,
            Builder.model_validate(limits),
            on_progress=lambda stage, share: self.progress.append((stage, share)),
            on_log=self.log.append,
            is_cancelled=self.is_cancelled,
            command=(sys.executable, "-c", PROLOGUE + script),
        )


def _pid(observer: Observer) -> int:
    return int(observer.log[0])


def test_events_and_other_output_are_relayed_in_order() -> None:
    observer = Observer()
    digest = observer.run(
        """
emit(stage="techniques", share=0.5)
emit(log=request["name"])
print("not an event", flush=True)
sys.stderr.write("a warning\\n\\nand another"); sys.stderr.flush()
emit(stage="profiling", share=1.0)
emit(built="abc")
"""
    )
    assert digest == "abc"
    assert [line for line in observer.log if line in ("new", "not an event")] == [
        "new",
        "not an event",
    ]
    assert {"a warning", "and another"} <= set(observer.log)
    changes = list(dict.fromkeys(observer.progress))
    assert changes[-2:] == [("techniques", 0.5), ("profiling", 1.0)]


def test_progress_is_repeated_as_a_sign_of_life(tmp_path: Path) -> None:
    observer = Observer()
    is_enough = tmp_path / "enough"

    def is_cancelled() -> bool:
        if observer.progress.count(("recovery", 0.25)) >= 3:
            is_enough.touch()
        return False

    observer.is_cancelled = is_cancelled
    observer.run(
        f'emit(stage="recovery", share=0.25)\nwait_for({str(is_enough)!r})\nemit(built="abc")',
        time_s=GIVE_UP_S,
    )
    assert is_enough.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('emit(error="no layer can be quantized")', "^no layer can be quantized$"),
        ("sys.exit(4)", "^the builder ended with status 4 in stage techniques$"),
        ("raise KeyError('x')", "^the builder ended with status 1 in stage techniques: KeyError"),
        (
            'emit(stage="profiling", share=0.1)\nos.kill(os.getpid(), 11)',
            "^the builder ended by signal 11 in stage profiling$",
        ),
        ("os.kill(os.getpid(), 9)", "^the builder was killed in stage techniques: .*out of memory"),
        ("", "^the builder ended with status 0 in stage techniques$"),
    ],
)
def test_a_build_that_ends_without_a_generation_says_why(script: str, message: str) -> None:
    with pytest.raises(BuildFailed, match=message):
        Observer().run(script)


def test_a_command_that_does_not_read_its_request_says_why() -> None:
    with pytest.raises(BuildFailed, match=r"ended with status 2 in stage techniques: .*python -h"):
        run_build(
            REQUEST,
            Builder(),
            on_progress=lambda stage, share: None,
            on_log=lambda line: None,
            is_cancelled=lambda: False,
            command=(sys.executable, "--no-option"),
        )


def test_a_build_over_its_time_is_ended() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(BuildFailed, match=r"longer than 0\.5 s \(builder\.time_s\) .*techniques"):
        Observer().run("time.sleep(600)", time_s=0.5)
    assert set(psutil.Process().children()) <= before


def test_the_memory_of_the_whole_process_tree_counts(tmp_path: Path) -> None:
    observer = Observer()
    are_known = tmp_path / "known"

    def is_cancelled() -> bool:
        if len(observer.log) == 2:
            are_known.touch()
        return False

    observer.is_cancelled = is_cancelled
    # Neither the builder nor its child is over the limit alone.
    script = f"""
emit(log=str(os.getpid()))
hold = "import time; block = bytearray(80 << 20); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", hold])
emit(log=str(child.pid))
wait_for({str(are_known)!r})
block = bytearray(80 << 20)
time.sleep(600)
"""
    limit = 150 << 20
    with pytest.raises(BuildFailed, match=r"more than its 150 MiB \(builder\.memory_bytes\)"):
        observer.run(script, memory_bytes=limit)
    assert len(observer.log) == 2
    wait_until(lambda: not any(_is_running(int(line)) for line in observer.log))


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_cancelled_build_is_killed_even_if_it_ignores_signals() -> None:
    observer = Observer()
    observer.is_cancelled = lambda: bool(observer.log)
    script = "import signal\nsignal.signal(15, signal.SIG_IGN)\nsignal.signal(2, signal.SIG_IGN)\n"
    with pytest.raises(BuildCancelled, match=r"^cancelled in stage techniques$"):
        observer.run(script + "emit(log=str(os.getpid()))\ntime.sleep(600)")
    assert not psutil.pid_exists(_pid(observer))


def test_an_error_of_a_callback_ends_the_build() -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise ConnectionError("the database is gone")

    with pytest.raises(ConnectionError):
        run_build(
            REQUEST,
            Builder(),
            on_progress=lambda stage, share: None,
            on_log=fail,
            is_cancelled=lambda: False,
            command=(
                sys.executable,
                "-c",
                PROLOGUE + "emit(log=str(os.getpid()))\ntime.sleep(600)",
            ),
        )
    assert not psutil.pid_exists(pids[0])


def test_the_builder_has_low_priority_its_share_of_threads_and_a_session_of_its_own() -> None:
    observer = Observer()
    script = (
        "emit(log=json.dumps([os.getpriority(0, 0), os.environ['OMP_NUM_THREADS'], os.getsid(0)]))"
        '\ntime.sleep(0.1)\nemit(built="abc")'
    )
    observer.run(script, niceness=19, cpus=1.5)
    priority, threads, session = json.loads(observer.log[0])
    assert (priority, threads) == (19, "2")
    assert session != os.getsid(0)


def test_no_pipe_or_process_is_left_behind() -> None:
    Observer().run('emit(built="abc")')
    gc.collect()  # what other tests have left
    process = psutil.Process()
    before = process.num_fds(), len(process.children()), threading.active_count()
    builds = 8
    for _ in range(builds):
        Observer().run('emit(built="abc")')
        with pytest.raises(BuildFailed):
            Observer().run("sys.exit(1)")
    after = process.num_fds(), len(process.children()), threading.active_count()
    # Libraries that other tests use in this process open and close some of their own.
    assert all(now - then < builds for then, now in zip(before, after, strict=True))


@pytest.mark.slow
def test_a_real_build_is_relayed_and_a_cancelled_one_leaves_nothing(
    small_project: Path, small_catalog: Path, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    shutil.copytree(small_catalog, catalog)
    recipe = (Step(technique="int8", parameters={"samples": 64}),)
    request = BuildRequest(
        project=small_project, catalog=catalog, name="new", number=2, recipe=recipe
    )
    stages: list[str] = []

    def run(is_cancelled: Callable[[], bool]) -> str:
        return run_build(
            request,
            Builder(),
            on_progress=lambda stage, share: stages.append(stage),
            on_log=lambda line: None,
            is_cancelled=is_cancelled,
        )

    with pytest.raises(BuildCancelled, match="in stage profiling"):
        run(lambda: "profiling" in stages)
    assert generations.on_disk(catalog) == set()
    digest = run(lambda: False)
    assert list(dict.fromkeys(stages)) == ["techniques", "evaluation", "profiling"]
    built = generations.verify(catalog, "new", 2)
    assert digest == generations.digest(built)
    assert built.notes[-1] == "latencies are CPU time, since the machine was serving meanwhile"
    (card,) = built.report_cards
    assert [latency.batch_size for latency in card.latencies] == [1, 2, 4, 8, 16, 32, 64]
    assert not any((catalog / DRAFTS).iterdir())  # not even the draft of the killed builder
