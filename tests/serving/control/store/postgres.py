"""A PostgreSQL server for tests, on a Unix socket in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from tests.waiting import wait_until

DEBIAN = Path("/usr/lib/postgresql")


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, or None if PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = sorted(DEBIAN.glob("*/bin"), reverse=True)
    candidates = [*([Path(found).resolve().parent] if found else []), *folders]
    return next((each for each in candidates if (each / "postgres").exists()), None)


@contextmanager
def running_server(programs: Path) -> Iterator[URL]:
    """Start a server without a durable log; yield the URL of its database `postgres`."""
    folder = Path(tempfile.mkdtemp(prefix="paretoserve-postgres-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    initdb, postgres = str(programs / "initdb"), str(programs / "postgres")
    create = [initdb, "-D", str(data), "-U", "test", "-A", "trust", "--no-sync"]
    serve = [postgres, "-D", str(data), "-k", str(folder)]
    options = ("listen_addresses=", "fsync=off", "max_connections=50")
    try:
        subprocess.run(create, cwd=folder, check=True, capture_output=True, **user)
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [*serve, *(part for option in options for part in ("-c", option))],
                cwd=folder,
                stdout=log,
                stderr=log,
                **user,
            )
        try:
            wait_until(lambda: "ready to accept connections" in (folder / "log").read_text())
            yield URL.create("postgresql+psycopg", "test", database="postgres").set(
                query={"host": str(folder)}
            )
        finally:
            server.send_signal(signal.SIGQUIT)  # without a checkpoint
            server.wait()
    finally:
        shutil.rmtree(folder)
