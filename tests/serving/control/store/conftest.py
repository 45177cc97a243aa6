"""Fixtures: an empty database of each kind, and a store in it with a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text

from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from tests.serving.control.store.postgres import find_programs, running_server


class Clock:
    """Returns the seconds to which a test has set it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running_server(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """A function that empties a database and returns its URL."""
    if request.param == "sqlite":
        return lambda: _empty_sqlite(tmp_path / "state.db")
    server: URL = request.getfixturevalue("postgres")
    return lambda: empty_postgres(server)


@pytest.fixture
def url(empty: Callable[[], str]) -> str:
    """The URL of an empty database."""
    return empty()


def _empty_sqlite(file: Path) -> str:
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    return sqlite_url(file)


def empty_postgres(server: URL) -> str:
    """Delete all tables of a server's database; return its URL."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
            connection.execute(text(statement))
    engine.dispose()
    return server.render_as_string(hide_password=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    with Store(url, clock) as opened:
        yield opened
