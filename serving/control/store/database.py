"""Connections, transactions and the schema: all that differs between SQLite and PostgreSQL.

A write transaction locks the whole state first, so that transactions take place one after another
and each sees what the former one left. A read transaction sees one moment. Other modules of this
package only see a `Transaction`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from serving.control.store.schema import upgrade
from serving.control.store.tables import SERVICE
from serving.errors import NotReady

WAIT_S: Final = 10
"""Seconds that a transaction waits for those before it."""
CONNECT_S: Final = 10
"""Seconds that a connection to PostgreSQL may take."""

_PG_OPTIONS: Final = (
    f"-c lock_timeout={WAIT_S}s -c statement_timeout={3 * WAIT_S}s "
    # A process that is stopped inside a transaction must not stop all others for long.
    f"-c idle_in_transaction_session_timeout={3 * WAIT_S}s"
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction. `now` is its time, in seconds since 1970."""

    connection: Connection
    now: float


def sqlite_url(file: Path) -> str:
    """Return the URL of a database in a file."""
    return URL.create("sqlite", database=str(file)).render_as_string()


class Database:
    """A database whose schema is the present one. Its methods may be called from any thread."""

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        """Open the database; create it, or bring its schema up to date.

        `clock` returns seconds since 1970. By default it is that of the PostgreSQL server, which
        all gateways share, or for SQLite that of this machine.

        Raises `ValueError` if the URL is wrong or the database cannot be opened.
        """
        self._url = _parse(url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._clock = clock
        try:
            self.engine = self._create_engine()
            with self._begin("BEGIN IMMEDIATE") as connection:
                upgrade(connection)
        except (DBAPIError, OSError) as error:
            name = self._url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise ValueError(
                f"the database {name} cannot be opened: {_first_line(cause)}"
            ) from error

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Begin a transaction that sees one moment of the state.

        Raises `NotReady` if the database does not answer; so does `write`.
        """
        with _translated(), self._begin("BEGIN") as connection:
            yield Transaction(connection, self._now(connection))

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction that no other writer interferes with; commit it at the end.

        An exception rolls everything back.
        """
        with _translated(), self._begin("BEGIN IMMEDIATE") as connection:
            if not self._is_sqlite:
                connection.execute(select(SERVICE.c.revision).with_for_update())
            yield Transaction(connection, self._now(connection))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _begin(self, statement: str) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            if self._is_sqlite:
                connection = connection.execution_options(begin=statement)
            elif statement == "BEGIN":
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                yield connection

    def _now(self, connection: Connection) -> float:
        if self._clock is not None:
            return self._clock()
        if self._is_sqlite:
            return time.time()
        now = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(now.scalar_one())

    def _create_engine(self) -> Engine:
        if not self._is_sqlite:
            arguments = {
                "options": _PG_OPTIONS,
                "connect_timeout": CONNECT_S,
                "application_name": "paretoserve",
            }
            return create_engine(self._url, pool_pre_ping=True, connect_args=arguments)
        assert self._url.database is not None
        folder = Path(self._url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"the folder {folder} cannot be created") from error
        engine = create_engine(self._url, connect_args={"timeout": WAIT_S})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def _parse(url: str) -> URL:
    wrong = "the database must be a URL that begins with sqlite:/// or postgresql+psycopg://"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(wrong) from None  # the text may contain a password
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise ValueError(
                "a database in PostgreSQL needs psycopg: pip install 'paretoserve[postgres]'"
            ) from None
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(f"{wrong}, not {parsed.drivername}://")
    if parsed.database in (None, "", ":memory:"):
        raise ValueError("the database must be a file, such as sqlite:///catalog/.control/state.db")
    return parsed


def _configure_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin in `_begin_sqlite` only
    # The journal allows readers while a writer writes; `FULL` syncs it at every commit.
    _use_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, unless the file has one already.

    SQLite does not wait for other processes that switch at the same moment, whatever its time-out.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise NotReady(
            "the database with the state of the service does not answer; try again"
        ) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().split("\n", 1)[0]
