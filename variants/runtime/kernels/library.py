"""Finds and loads the compiled kernels."""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path
from typing import Final

INSTRUCTION_SETS: Final = ("portable", "avx2", "avx512", "avx512-vnni")
"""In ascending order; the library numbers them in this order."""
VARIABLE: Final = "PARETOSERVE_INSTRUCTION_SET"
"""Environment variable that forces one of them, unless it is empty."""
VERSION: Final = 3
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
    if not forced:
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
    """Return the first usable library, or why there is none.

    A file for this interpreter comes first. Files of other versions of Python are usable too, since
    the library does not call Python.
    """
    own = f"{_STEM}{sysconfig.get_config_var('EXT_SUFFIX')}"
    files = Path(__file__).parent.glob(f"{_STEM}*.so")
    reasons = []
    for file in sorted(files, key=lambda each: (each.name != own, each)):
        library, reason = _open(file)
        if library is not None:
            return library, ""
        reasons.append(reason)
    missing = (
        "the kernels are not compiled: install a C++ compiler (gcc or clang), "
        "and then this package again"
    )
    return None, reasons[0] if reasons else missing


def _open(file: Path) -> tuple[ctypes.CDLL | None, str]:
    try:
        library = ctypes.CDLL(str(file))
        version = int(library.paretoserve_version())
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels cannot be loaded: {error}"
    if version != VERSION:
        return None, (
            f"the compiled kernels have version {version} instead of {VERSION}: "
            "install this package again"
        )
    return library, ""
