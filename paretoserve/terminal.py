"""Printing of the command line and of the Python API: results to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

Clock: TypeAlias = Callable[[], float]
"""Monotonic clock, in seconds."""

console = Console()
errors = Console(stderr=True)


LOG_INTERVAL_S: Final = 10.0
"""Least time between two lines on the progress of one stage."""


class LogLines(Progress):
    """Progress as lines, for output that is no terminal: a file, a pipe, the log of a CI job.

    A stage has a line when it begins, at most one every `interval_s` seconds, with the time left,
    and one when it ends if it had a line in between.
    """

    def __init__(
        self, console: Console, *, interval_s: float = LOG_INTERVAL_S, clock: Clock = monotonic
    ) -> None:
        super().__init__(console=console, auto_refresh=False, get_time=clock)
        self._interval_s = interval_s
        self._clock = clock
        self._lines: dict[TaskID, float] = {}
        """When the last line of each stage was printed."""
        self._ended: set[TaskID] = set()

    def start(self) -> None:
        """Do nothing: lines need no live display."""

    def stop(self) -> None:
        """Do nothing: lines need no live display."""

    def add_task(self, *args: Any, **kwargs: Any) -> TaskID:
        """Add a stage, and print that it begins."""
        number = super().add_task(*args, **kwargs)
        self._lines[number] = self._clock()
        self._print(self._tasks[number].description)
        return number

    def update(self, task_id: TaskID, *args: Any, **kwargs: Any) -> None:
        """Update a stage, and print a line if it is time."""
        super().update(task_id, *args, **kwargs)
        self._report(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a stage, and print a line if it is time."""
        super().advance(task_id, advance)
        self._report(task_id)

    def _report(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], self._clock()
        if task.finished:
            took_s = 0.0 if task.start_time is None else now - task.start_time
            if task_id not in self._ended and took_s >= self._interval_s:
                self._print(f"{task.description}: done in {_duration(took_s)}")
            self._ended.add(task_id)
        elif now - self._lines[task_id] >= self._interval_s:
            self._lines[task_id] = now
            share = task.percentage / 100
            line = f"{task.description}: {share:.0%}"
            if task.start_time is not None and share > 0:
                left_s = (now - task.start_time) * (1 - share) / share
                line += f", about {_duration(left_s)} left"
            self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_bars(*, is_shown: bool = True) -> Progress:
    """Return progress on stderr, because stdout is for results, which may be JSON.

    In a terminal it is bars, and otherwise lines.
    """
    if is_shown and not errors.is_terminal:
        return LogLines(errors)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=errors if is_shown else Console(quiet=True),
        disable=not is_shown,
    )


def _duration(seconds: float) -> str:
    """Format a duration to the second: `45 s`, `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_lines(lines: Iterable[str]) -> None:
    """Print each line literally: brackets and colons in it are not markup."""
    for line in lines:
        console.print(Text(line))
