"""The documentation's pages and their fenced code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        [
            *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
            *(ROOT / "docs").glob("**/*.md"),
        ]
    )
)

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block; `line` is that of its first line of code."""

    page: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each shell command, comments removed; `&&` separates commands.

        A quoted word may extend over several lines.
        """
        text = ""
        for line in self.text.replace("\\\n", " ").splitlines():
            text += line + "\n"
            try:
                words = [*shlex.split(text, comments=True), "&&"]
            except ValueError:  # a quoted word is not closed yet
                continue
            text = ""
            while words:
                end = words.index("&&")
                if end:
                    yield words[:end]
                words = words[end + 1 :]
        assert not text, f"{self.id}: a quotation is not closed"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that are in one of these languages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("text")) + 1
                name = str(page.relative_to(ROOT))
                found.append(Block(name, line, match["language"], match["text"]))
    return found
