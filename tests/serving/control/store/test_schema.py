from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from serving.control.store import database
from serving.control.store.database import Database, sqlite_url
from serving.control.store.schema import MIGRATIONS
from serving.control.store.store import Store
from serving.control.store.tables import METADATA
from tests.serving.control.store.children import forked
from tests.serving.control.store.states import INT8, build, states
from tests.waiting import GIVE_UP_S

FIRST = Path(__file__).with_name("first_revision.sql")
"""A database that the first revision has written, as SQL."""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    file = tmp_path / "state.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(FIRST.read_text())
    connection.close()
    return file


def test_the_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    opened = Database(url)
    with opened.read() as transaction:
        assert compare_metadata(MigrationContext.configure(transaction.connection), METADATA) == []
    opened.close()


def test_the_migrations_are_one_line_from_the_first_to_the_last() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert [each.revision for each in scripts.walk_revisions()] == ["0003", "0002", "0001"]


def test_a_database_of_the_first_revision_is_brought_up_to_date_with_all_that_is_in_it(
    first: Path,
) -> None:
    with Store(sqlite_url(first), lambda: 1_790_000_100.0) as store:
        assert store.lineup().published == {"dense": 1, "int8": 2}
        assert states(store) == ["kept", "published"]
        generation = store.generation("int8", 2)
        assert (generation.probe_s, generation.since) == (0.003, None)
        assert generation.gate is not None
        assert generation.gate.checks[0].rule == "max_accuracy_drop"
        assert store.generation("pruned", 1).error == "the recipe needs more than 4 GiB"
        jobs = store.jobs()
        assert [job.status for job in jobs] == ["queued", "failed", "succeeded"]
        assert store.job_log(jobs[2].id)[0].text == "in techniques"
        assert jobs[0].estimate_s is not None
        assert len(store.history()) == 7
        assert [report.state for report in store.reports(1000.0)] == ["routed"]
        again = store.submit_build(
            "half", INT8, "bo", must_exist=False, idempotency_key="second", body_sha256="c" * 64
        )
        assert again == jobs[0]
        build(store, jobs[0])
        store.publish("half", 1)
        assert store.lineup().published == {"dense": 1, "half": 1, "int8": 2}


def test_a_database_of_a_newer_version_is_refused_and_left_alone(first: Path) -> None:
    with Store(sqlite_url(first)):
        pass
    with sqlite3.connect(first) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = first.read_bytes()
    with pytest.raises(ValueError, match="was written by a newer version of Paretoserve"):
        Store(sqlite_url(first))
    assert first.read_bytes() == before


@pytest.mark.slow
def test_processes_that_open_a_new_database_at_once_make_its_tables_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PG_OPTIONS", f"-c lock_timeout={GIVE_UP_S:g}s")
    monkeypatch.setattr(database, "WAIT_S", GIVE_UP_S)  # on a slow disk, the tables take long

    def open_and_adopt() -> None:
        with Store(url) as store:
            store.adopt("a", "d", ())

    with forked(3, open_and_adopt) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with Store(url) as store:
        assert states(store, "a") == ["published"]
