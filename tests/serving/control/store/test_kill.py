"""A process that is killed leaves the state before what it did, or after it.

A child process does one step on a copy of the database and kills itself: before each statement,
before the commit, and after it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, event, select
from sqlalchemy.pool import NullPool, Pool

from serving.control.state import ReplicaReport
from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from serving.control.store.tables import METADATA
from tests.serving.control.store.conftest import empty_postgres
from tests.serving.control.store.states import INT8, gate, serve
from tests.serving.control.store.test_schema import FIRST

pytestmark = pytest.mark.slow

REPORT = ReplicaReport(
    gateway="a", variant="int8", generation=1, state="routed", replicas=1, at=0.0
)


def newest(store: Store) -> str:
    return store.jobs(limit=1)[0].id


STEPS: dict[str, Callable[[Store], object]] = {
    "adopt": lambda s: s.adopt("dense", "d" * 64, ()),
    "submit a build": lambda s: s.submit_build("int8", INT8, "ana", must_exist=False),
    "cancel it": lambda s: s.cancel(newest(s), "ana"),
    "submit again": lambda s: s.submit_build(
        "int8", INT8, "ana", must_exist=False, idempotency_key="k", body_sha256="b"
    ),
    "start it": lambda s: s.start_job(newest(s)),
    "report progress": lambda s: s.report_progress(newest(s), "recovery", 0.5),
    "log a line": lambda s: s.log(newest(s), "a line"),
    "requeue it": lambda s: s.requeue(newest(s), "lost"),
    "start it again": lambda s: s.start_job(newest(s)),
    "built": lambda s: s.built(newest(s), "1" * 64, gate()),
    "publish": lambda s: s.publish("int8", 1),
    "routed": lambda s: s.routed("int8"),
    "submit another": lambda s: s.submit_build("int8", INT8, "ana", must_exist=True),
    "start the other": lambda s: s.start_job(newest(s)),
    "built the other": lambda s: s.built(newest(s), "2" * 64, gate()),
    "publish the other": lambda s: s.publish("int8", 2, 1.5),
    "the other is routed": lambda s: s.routed("int8"),
    "drained": lambda s: s.drained("int8", 1),
    "roll back": lambda s: s.submit_publish("int8", 1, "ana"),
    "fail to load": lambda s: s.fail(newest(s), "no memory"),
    "submit a third": lambda s: s.submit_build("int8", INT8, "ana", must_exist=True),
    "start the third": lambda s: s.start_job(newest(s)),
    "cancel the third": lambda s: s.cancel(newest(s), "ana"),
    "the third has ended": lambda s: s.cancelled(newest(s)),
    "remove": lambda s: s.submit_remove("int8", "ana"),
    "removed": lambda s: s.removed("int8"),
    "delete old generations": lambda s: s.delete_old(0),
    "delete old jobs": lambda s: s.delete_records(1, 1),
    "files deleted": lambda s: s.files_deleted("int8", 2),
    "report": lambda s: s.report("a", [REPORT]),
    "take a lease": lambda s: s.acquire_lease("reconciler", "a", 5),
}
"""The life of a variant, in order."""


def content(file: Path) -> str:
    """Return all that is in a database, without the random ids of jobs."""
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        dump = "\n".join(connection.iterdump())
    connection.close()
    return re.sub(r"\b[0-9a-f]{12}\b", "ID", dump)


def copy(file: Path, target: Path) -> Path:
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    return Path(shutil.copy(file, target))


def opened(file: Path) -> Store:
    return Store(sqlite_url(file), lambda: 1000.0)


def left_by_a_kill(point: int, prepare: Callable[[], Callable[[], object]]) -> bool:
    """Run an action in a child process and kill it at a point; return whether it got there.

    `prepare` is called in the child process and returns the action, to which the points belong.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    passed = 0

    def pass_point(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        action = prepare()
        event.listen(Engine, "before_cursor_execute", pass_point)
        event.listen(Engine, "commit", pass_point)
        event.listen(Pool, "reset", pass_point)
        action()
    finally:
        os._exit(0)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The database before and after each step."""
    folder = tmp_path_factory.mktemp("life")
    present = folder / "present.db"
    files: dict[str, tuple[Path, Path]] = {}
    opened(present).close()
    before = copy(present, folder / "0.db")
    for number, (name, step) in enumerate(STEPS.items(), start=1):
        with opened(present) as store:
            step(store)
        after = copy(present, folder / f"{number}.db")
        files[name] = before, after
        before = after
    return files


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_killed_anywhere_is_done_or_not_begun(
    name: str, life: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    before, after = life[name]
    file = tmp_path / "state.db"
    left = []
    for point in range(1, 100):
        copy(before, file)

        def prepare() -> Callable[[], object]:
            store = opened(file)
            return lambda: STEPS[name](store)

        if not left_by_a_kill(point, prepare):
            break
        left.append(content(file))
    is_done = [each == content(after) for each in left]
    assert [each == content(before) for each in left] == [not done for done in is_done]
    assert is_done == sorted(is_done), "what is done stays done"
    assert (is_done[0], is_done[-1]) == (False, True)
    assert len(left) >= 4


def test_postgresql_rolls_back_what_a_killed_process_has_begun(postgres: URL) -> None:
    url = empty_postgres(postgres)
    engine = create_engine(postgres, poolclass=NullPool)  # a child inherits no connection

    def rows() -> list[object]:
        with engine.connect() as connection:
            return [connection.execute(select(each)).all() for each in METADATA.sorted_tables]

    def prepare(name: str) -> Callable[[], object]:
        store = Store(url, lambda: 1000.0)
        return lambda: STEPS[name](store)

    Store(url).close()
    killed = {"publish the other", "fail to load", "removed", "delete old generations"}
    for name, step in STEPS.items():
        if name not in killed:
            with Store(url, lambda: 1000.0) as store:
                step(store)
            continue
        before, point = rows(), 1
        while rows() == before:
            assert left_by_a_kill(point, partial(prepare, name)), f"{name} changes nothing"
            point += 1
        assert point > 4, "the last point is behind the commit"


@pytest.mark.parametrize("revision", ["none", "first"])
def test_a_migration_that_is_killed_anywhere_is_done_or_not_begun(
    revision: str, tmp_path: Path
) -> None:
    before, file = tmp_path / "before.db", tmp_path / "state.db"
    with sqlite3.connect(before) as connection:
        if revision == "first":
            connection.executescript(FIRST.read_text())
    connection.close()
    opened(copy(before, tmp_path / "after.db")).close()
    expected = [content(before), content(tmp_path / "after.db")]
    left = []
    for point in range(1, 200):
        copy(before, file)
        if not left_by_a_kill(point, lambda: lambda: opened(file)):
            break
        left.append(expected.index(content(file)))
        opened(file).close()
        assert content(file) == expected[1]
    assert left == sorted(left)
    assert (left[0], left[-1]) == (0, 1)


def test_a_process_that_is_killed_at_any_moment_leaves_a_state_that_can_go_on(
    tmp_path: Path,
) -> None:
    """Kills between the statements, too: the moments are random."""
    file = tmp_path / "state.db"
    moments = random.Random(1)
    with opened(file) as store:
        store.adopt("int8", "d" * 64, INT8)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                with opened(file) as store:
                    while True:
                        serve(store)
                        store.delete_old(1)
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        with opened(file) as store:
            generations = store.variant("int8").generations
            assert [each.state for each in generations].count("published") == 1
            for job in store.jobs(active_only=True):
                if job.stage == "published":
                    store.routed(job.variant)
                elif store.cancel(job.id, "ana").status == "running":
                    store.cancelled(job.id)
            for each in generations:
                if each.state == "draining":
                    store.drained("int8", each.number)
            assert store.lineup().warming == {}
    content(file)
