"""Tables of results for a terminal or a Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """Rows of text under column names; the first column identifies the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_table(self) -> Table:
        """Return the table for a terminal."""
        table = Table(title=self.title, caption=self.note or None)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        head = f"| {' | '.join(self.columns)} |"
        line = "| --- |" + " ---: |" * (len(self.columns) - 1)
        rows = [f"| {' | '.join(row)} |" for row in self.rows]
        parts = [f"**{self.title}**", "\n".join([head, line, *rows]), self.note]
        return "\n\n".join(part for part in parts if part)


def show(grids: Sequence[Grid], console: Console, *, as_markdown: bool) -> None:
    """Print tables one below the other."""
    for grid in grids:
        if as_markdown:
            console.print(grid.to_markdown() + "\n", soft_wrap=True, markup=False, highlight=False)
        else:
            console.print(grid.to_table())
