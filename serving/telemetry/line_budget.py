"""Bounds how often a log repeats itself: of each kind of line a few are written, others counted.

A client that sends thousands of wrong requests per second would otherwise fill the disk and hide
what matters, and the lines would cost more than the responses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

LINES: Final = 10
"""Number of lines of one kind that are written within `PERIOD_S`."""

PERIOD_S: Final = 10.0
"""Length of a period, in seconds. It begins with the first line of its kind."""

MAX_KINDS: Final = 1000
"""Number of kinds that are distinguished; more of them share one budget."""

COUNTED: Final = "_is_counted"
"""Field of a line that was counted already. It is not written: its name begins with `_`."""

NOTICE: Final = f"others of this kind are counted, not logged, for up to {PERIOD_S:g} s"


class LineBudget:
    """Decides for each line whether to write it. Threads may share it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._periods: dict[Hashable, tuple[float, int]] = {}
        """When the period of a kind began, and how many lines of it there were since."""

    def take(self, kind: Hashable) -> dict[str, Any] | None:
        """Return fields to add to a line of this kind, or None if it is not to be written.

        The first line of a period has the field `not_logged` if lines of the former one were not
        written. The last one that is written has the field `notice`.
        """
        now = self._now()
        with self._lock:
            if kind not in self._periods and len(self._periods) >= MAX_KINDS:
                kind = None
            began, count = self._periods.get(kind, (now, 0))
            if now - began >= PERIOD_S:
                self._periods[kind] = (now, 1)
                more = {"not_logged": count - LINES} if count > LINES else {}
                return {COUNTED: True, **more}
            self._periods[kind] = (began, count + 1)
        if count >= LINES:
            return None
        return {COUNTED: True, **({"notice": NOTICE} if count == LINES - 1 else {})}

    def clear(self) -> None:
        """Forget all lines, so that each kind begins anew."""
        with self._lock:
            self._periods.clear()


class BudgetFilter(logging.Filter):
    """Applies a budget to warnings and errors. Their kind: the place in the code, and the variant.

    So a line that is written once for a variant is not lost among those of others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._budget = LineBudget()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record; add the fields of `LineBudget.take` to it."""
        if record.levelno < logging.WARNING or hasattr(record, COUNTED):
            return True
        variant = str(getattr(record, "variant", ""))
        fields = self._budget.take((record.pathname, record.lineno, variant))
        if fields is None:
            return False
        for name, value in fields.items():
            setattr(record, name, value)
        return True
