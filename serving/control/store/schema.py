"""Brings a database to the present schema with the migrations of this package.

Migrations run in the caller's transaction, so a killed process leaves the old schema or the new
one. In PostgreSQL an advisory lock lets one process at a time migrate; in SQLite the transaction
is exclusive already.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK_KEY: Final = 0x7061_7265_746F
"""Key of the advisory lock: "pareto" in ASCII."""
_alembic = threading.Lock()
"""Alembic keeps the migration in progress in module variables."""


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrate the database to `revision`, by default the latest one.

    Raises `ValueError` if a newer version of Paretoserve has migrated it already.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _alembic:
            command.upgrade(config, revision)
    except CommandError as error:
        raise ValueError(
            "the database was written by a newer version of Paretoserve: install that version, "
            f"or restore a copy of the database that is older ({error})"
        ) from error
