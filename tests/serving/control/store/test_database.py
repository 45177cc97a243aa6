from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL

from serving.control.store import database
from serving.control.store.database import Database, sqlite_url
from serving.control.store.store import Store
from serving.errors import Conflict, NotReady
from tests.serving.control.store.children import forked
from tests.serving.control.store.states import INT8, add
from tests.waiting import GIVE_UP_S


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "begins with sqlite:/// or postgresql"),
        ("mysql://host/name", "begins with .*, not mysql://"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        (
            "sqlite:////dev/null/state.db",
            "cannot be opened: the folder /dev/null cannot be created",
        ),
        ("sqlite:////", "cannot be opened: unable to open database file"),
        (
            "postgresql://ana:secret@/name?host=/nonexistent",
            r"postgresql\+psycopg://ana:\*\*\*@.* cannot be opened: ",
        ),
    ],
)
def test_a_wrong_url_is_refused_with_a_sentence_and_without_the_password(
    url: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Store(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(b"something else" * 1000)
    with pytest.raises(ValueError, match="file is not a database"):
        Store(sqlite_url(file))
    assert file.read_bytes() == b"something else" * 1000


def test_the_folder_of_the_file_is_created(tmp_path: Path) -> None:
    file = tmp_path / "catalog with spaces?" / ".control" / "state.db"
    with Store(sqlite_url(file)) as store:
        assert store.revision() == 0
    assert file.exists()


def test_sqlite_syncs_every_commit_and_checks_references(tmp_path: Path) -> None:
    opened = Database(sqlite_url(tmp_path / "state.db"))
    with opened.read() as transaction:
        pragmas = [
            transaction.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    opened.close()
    assert pragmas == ["wal", 2, 1]


def test_the_state_outlives_the_process(url: str) -> None:
    with Store(url) as store:
        job = add(store)
        history = store.history()
    with Store(url) as store:
        assert store.job(job.id) == job
        assert store.history() == history


def test_an_exception_rolls_back_the_whole_transaction(url: str) -> None:
    opened = Database(url)
    with contextlib.suppress(ZeroDivisionError), opened.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE service SET revision = 7")
        raise ZeroDivisionError
    with opened.read() as transaction:
        revision = transaction.connection.exec_driver_sql("SELECT revision FROM service")
        assert revision.scalar_one() == 0
    opened.close()


def test_a_reader_sees_one_moment_and_does_not_wait_for_a_writer(url: str) -> None:
    opened = Database(url)
    read = "SELECT revision FROM service"
    with opened.read() as reader:
        assert reader.connection.exec_driver_sql(read).scalar_one() == 0
        with opened.write() as writer:
            writer.connection.exec_driver_sql("UPDATE service SET revision = 7")
            assert reader.connection.exec_driver_sql(read).scalar_one() == 0
        assert reader.connection.exec_driver_sql(read).scalar_one() == 0
    opened.close()


def test_a_writer_that_waits_too_long_is_told_to_try_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    monkeypatch.setattr(database, "_PG_OPTIONS", "-c lock_timeout=100ms")
    with Store(url) as store:
        other = Database(url)
        with other.write(), pytest.raises(NotReady, match="try again"):
            add(store)
        add(store)
        other.close()


def test_a_database_that_is_gone_is_not_ready_until_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with Store(sqlite_url(file)) as store:
        with sqlite3.connect(file) as other:
            other.execute("ALTER TABLE service RENAME TO gone")
        with pytest.raises(NotReady, match="does not answer; try again"):
            store.revision()
        with sqlite3.connect(file) as other:
            other.execute("ALTER TABLE gone RENAME TO service")
        other.close()
        assert store.revision() == 0


def test_a_lost_connection_to_postgresql_is_replaced(
    request: pytest.FixtureRequest, postgres: URL
) -> None:
    url = postgres.render_as_string(hide_password=False)
    with Store(url) as store:
        revision = store.revision()
        other = Database(url)
        with other.write() as transaction:
            transaction.connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND application_name = 'paretoserve'"
            )
        other.close()
        assert store.revision() == revision


def test_a_new_file_is_opened_while_another_process_makes_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not wait in this case, whatever its time-out."""
    file = tmp_path / "state.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if other.in_transaction:
            other.execute("COMMIT")

    monkeypatch.setattr("serving.control.store.database.time.sleep", wait)
    Database(sqlite_url(file)).close()
    assert len(waits) == 1
    other.close()


def test_of_many_threads_that_add_a_variant_one_succeeds(url: str) -> None:
    threads = 8
    barrier = threading.Barrier(threads)

    def submit(thread: int) -> bool:
        barrier.wait()
        try:
            store.submit_build("int8", INT8, f"thread {thread}", must_exist=False)
        except Conflict:
            return False
        return True

    with Store(url) as store, ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(submit, range(threads))) == 1
        assert len(store.jobs()) == 1


@pytest.mark.slow
def test_threads_and_processes_that_write_at_once_lose_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite does not queue those who wait, so that on a slow disk one of them may wait long.
    monkeypatch.setattr(database, "_PG_OPTIONS", f"-c lock_timeout={GIVE_UP_S:g}s")
    monkeypatch.setattr(database, "WAIT_S", GIVE_UP_S)

    def write(writer: str) -> None:
        with Store(url) as store:
            for _ in range(20):
                store.record(writer, "test", "")

    with (
        forked(2, lambda: write("process")) as processes,
        Store(url) as store,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda _: store.record("thread", "test", ""), range(40)))
    assert [process.exitcode for process in processes] == [0, 0]
    with Store(url) as store:
        assert Counter(entry.actor for entry in store.history(1000)) == {
            "process": 40,
            "thread": 40,
        }
