"""Reads a recorded trace, the number of requests in each second, from a CSV file."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

HEADER: Final = ["second", "arrivals"]


def read_counts(path: Path) -> npt.NDArray[np.float64]:
    """Return the arrivals of every second of a trace, in order.

    The file has the header `second,arrivals`. Seconds are integers that increase by 1; the first
    one is arbitrary.

    Raises ValueError with the path and the number of the invalid line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a trace: {error}") from None
    if not rows or [name.strip() for name in rows[0]] != HEADER:
        raise ValueError(f"{path}, line 1: must be the header {','.join(HEADER)}")
    if len(rows) == 1:
        raise ValueError(f"{path}: there are no rows after the header")
    counts = np.empty(len(rows) - 1)
    expected: int | None = None
    for line, row in enumerate(rows[1:], start=2):
        try:
            second, counts[line - 2] = _parse_row(row, expected)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        expected = second + 1
    return counts


def _parse_row(row: list[str], expected: int | None) -> tuple[int, float]:
    if len(row) != len(HEADER):
        raise ValueError(f"must be {','.join(HEADER)}, got {','.join(row)!r}")
    try:
        second = int(row[0])
    except ValueError:
        raise ValueError(f"second must be a whole number, got {row[0]!r}") from None
    if expected is not None and second != expected:
        raise ValueError(f"second must be {expected}, the next one, got {second}")
    try:
        count = float(row[1])
    except ValueError:
        count = math.nan
    if not (math.isfinite(count) and count >= 0):
        raise ValueError(f"arrivals must be a number of at least 0, got {row[1]!r}")
    return second, count
