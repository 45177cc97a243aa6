"""Building blocks of reports: tables of text and number formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from variants.catalog.catalog import Interval

REFERENCE: Final = "reference"
"""Verdict on dense, which the other variants are compared with."""

NO_VALUE: Final = "-"
"""Placeholder for a missing number."""


SizeUnit: TypeAlias = Literal["kB", "MB"]
_UNITS: Final[Mapping[SizeUnit, int]] = {"kB": 10**3, "MB": 10**6}


@dataclass(frozen=True)
class Section:
    """A table of text. A row with an empty first cell continues the row before it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_last_column_text: bool
    note: str = ""

    def is_text_column(self, column: int) -> bool:
        """Return whether the column with this index contains text rather than numbers."""
        last = len(self.columns) - 1
        return column == 0 or (self.is_last_column_text and column == last)


def milliseconds(seconds: float) -> str:
    """Format a duration in milliseconds with three significant digits: `0.0712`, `1,340`."""
    milli = seconds * 1e3
    digits = next((n for limit, n in ((0.1, 4), (1, 3), (10, 2), (100, 1)) if milli < limit), 0)
    return f"{milli:,.{digits}f}"


def size_unit(sizes_bytes: Iterable[int | None]) -> SizeUnit:
    """Return the unit for sizes that are compared: kB if the smallest is under a MB, else MB."""
    known = [size for size in sizes_bytes if size is not None]
    return "kB" if known and min(known) < _UNITS["MB"] else "MB"


def size(size_bytes: int | None, unit: SizeUnit) -> str:
    """Format a size in MB (10^6 bytes) or kB (10^3 bytes), without the unit."""
    return NO_VALUE if size_bytes is None else f"{size_bytes / _UNITS[unit]:,.2f}"


def millions(count: int) -> str:
    """Format a count in millions with four significant digits: `0.1185`, `5.820`, `1,204`."""
    value = count / 1e6
    digits = next((n for limit, n in ((1, 4), (10, 3), (100, 2), (1000, 1)) if value < limit), 0)
    return f"{value:,.{digits}f}"


def interval(interval: Interval, form: str, *, scale: float = 1) -> str:
    """Format an estimate and its interval, such as `0.20 [0.10, 0.30]`."""
    value, low, high = (
        form.format(scale * end) for end in (interval.value, interval.low, interval.high)
    )
    # Exact values have no interval, such as dense compared with itself.
    return value if interval.low == interval.high else f"{value} [{low}, {high}]"


def probability(p_value: float) -> str:
    """Format a p-value: `0.037`, `<0.001`."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
