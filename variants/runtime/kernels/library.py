"""Finds and loads the compiled kernels."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Final

INSTRUCTION_SETS: Final = ("portable", "avx2", "avx512", "avx512-vnni")
"""In ascending order; the library numbers them in this order."""
VARIABLE: Final = "PARETOSERVE_INSTRUCTION_SET"
"""Environment variable that forces one of them."""
VERSION: Final = 1
"""Version of the C interface and of the packed layouts."""

_STEM = "_kernels"


def is_compiled() -> bool:
    """Return whether the compiled library is there and usable."""
    return not missing_reason()


def missing_reason() -> str:
    """Return why there is no compiled library, or an empty string if there is one."""
    return _load()[1]


def instruction_set() -> str:
    """Return the name of the instruction set that the kernels use.

    Raises `ValueError` if the environment variable names one that is unknown or not supported by
    this processor. Without the library it is "portable".
    """
    supported = supported_instruction_sets()
    forced = os.environ.get(VARIABLE)
    if forced is None:
        return supported[-1]
    if forced not in supported:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(supported)} here, got {forced!r}")
    return forced


def supported_instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this processor and the library have, ascending."""
    library = _load()[0]
    best = 0 if library is None else int(library.paretoserve_instruction_set())
    return INSTRUCTION_SETS[: best + 1]


def loaded() -> ctypes.CDLL:
    """Return the library. Raises `RuntimeError` with `missing_reason()` if there is none."""
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    return library


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    folder = Path(__file__).parent
    files = sorted(folder.glob(f"{_STEM}*.so"))
    if not files:
        return None, (
            "the kernels are not compiled: install a C++ compiler (gcc or clang), "
            "and then this package again"
        )
    try:
        library = ctypes.CDLL(str(files[0]))
        version = int(library.paretoserve_version())
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels cannot be loaded: {error}"
    if version != VERSION:
        return None, (
            f"the compiled kernels have version {version} instead of {VERSION}: "
            "install this package again"
        )
    return library, ""
