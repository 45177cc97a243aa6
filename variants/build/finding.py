"""Findings of a check: what is right, doubtful or wrong with a project, as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

from rich.text import Text

T = TypeVar("T")


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    subject: str
    verdict: Literal["ok", "warning", "error"]
    text: str
    """For an error: what is wrong, and what would be right."""
    cause: BaseException | None = None
    """The exception that showed the error, for its traceback."""

    def line(self) -> Text:
        """Return the result as a coloured line with a mark for the verdict."""
        mark, style = _MARKS[self.verdict]
        return Text.assemble((f"{mark} {self.verdict:7} ", style), f"{self.subject}: {self.text}")


_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}

OnResult: TypeAlias = Callable[[CheckResult], None]
"""Called with each result as soon as it is known."""


@dataclass(frozen=True)
class Reporter:
    """Reports results of each verdict."""

    on_result: OnResult

    def ok(self, subject: str, text: str) -> None:
        """Report that something is right."""
        self.on_result(CheckResult(subject, "ok", text))

    def warnings(self, subject: str, texts: Iterable[str]) -> None:
        """Report what is doubtful."""
        for text in texts:
            self.on_result(CheckResult(subject, "warning", text))

    def errors(self, subject: str, texts: Iterable[str]) -> None:
        """Report what is wrong."""
        for text in texts:
            self.on_result(CheckResult(subject, "error", text))

    def attempt(self, subject: str, make: Callable[[], T]) -> T | None:
        """Return the result of `make`, or report its error and return None.

        `make` runs code of the user, which may raise any exception.
        """
        try:
            return make()
        except ValueError as error:
            text = str(error) or "ValueError without a message"
            self.on_result(CheckResult(subject, "error", text, error))
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}"
            self.on_result(CheckResult(subject, "error", text, error))
        return None
