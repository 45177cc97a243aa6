"""Silences libraries that print and warn about what no reader of ours can act upon."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from rich.console import Console
from rich.file_proxy import FileProxy


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed, warned of and logged up to warnings; what is raised is still raised.

    Progress bars stay: rich looks through its own proxy to the terminal.
    """
    disabled = logging.root.manager.disable
    nowhere = Console(quiet=True)
    out, err = (
        FileProxy(nowhere, getattr(stream, "rich_proxied_file", stream))
        for stream in (sys.stdout, sys.stderr)
    )
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
