"""Returns freed memory to the operating system."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Return freed memory to the operating system, where the C library can do so.

    Packing a network frees several times the memory that it leaves in use. glibc keeps freed blocks
    of up to 32 MB for later, which would count as memory of the process for as long as it serves.
    """
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
    if trim is not None:
        trim(ctypes.c_size_t(0))
