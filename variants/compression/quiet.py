"""Suppresses output and warnings of libraries on which a user cannot act."""

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
    """Discard printed text, warnings, and log records up to WARNING, inside the context.

    Exceptions pass through. Progress bars are still drawn, because rich writes to the stream behind
    its own proxy.
    """
    disabled = logging.root.manager.disable
    discard = Console(quiet=True)
    out, err = (
        FileProxy(discard, getattr(stream, "rich_proxied_file", stream))
        for stream in (sys.stdout, sys.stderr)
    )
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
