"""The report cards of a catalog, for people and for programs.

catalog ─▶ sections (plain tables of text) ─▶ terminal
                                           ─▶ Markdown
        ─▶ JSON: the catalog itself, as the router reads it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from variants.catalog import BatchLatency, Catalog, Interval, ReportCard
from variants.comparison import (
    BETTER,
    FASTER,
    SAME,
    SLOWER,
    WORSE,
    Cards,
    accuracy_verdict,
    batch_sizes,
    cards_on,
    frontier_at,
    hardware_keys,
    latencies_at,
    speed_verdict,
)
from variants.recipe import DENSE

PLOT: Final = "frontier.png"
"""Where the Markdown looks for the plot: beside itself."""

_REFERENCE: Final = "reference"
_STAR: Final = "★"
_STYLES: Final = {BETTER: "green", FASTER: "green", WORSE: "red", SLOWER: "red", _REFERENCE: "dim"}


@dataclass(frozen=True)
class Section:
    """A table of text. A row whose first cell is empty belongs to the row before it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_last_column_words: bool
    note: str = ""


def render_json(catalog: Catalog) -> str:
    """Return the catalog as one JSON document: `Catalog.model_validate_json` reads it back."""
    return catalog.model_dump_json(indent=2)


def render_markdown(catalog: Catalog) -> str:
    """Return the report as Markdown, with the plot `PLOT` that lies beside it."""
    parts = [f"# Report cards of {catalog.model.name}", f"![Accuracy against latency]({PLOT})"]
    for key in hardware_keys(catalog):
        parts.append(f"## {key}")
        for section in sections(catalog, key):
            parts += [f"### {section.title}", _markdown_table(section), section.note]
    return "\n\n".join(filter(None, parts)) + "\n"


def render_table(catalog: Catalog) -> RenderableType:
    """Return the report for a rich console of 100 columns or more."""
    parts: list[RenderableType] = []
    for key in hardware_keys(catalog):
        parts.append(Text(f"\n{catalog.model.name} on {key}", style="bold"))
        for section in sections(catalog, key):
            parts += [Text(), _rich_table(section)]
            if section.note:
                parts.append(Text(f" {section.note}", style="dim"))
    return Group(*(parts or [Text("No variant has a report card yet.")]))


def render_overview(catalog: Catalog) -> RenderableType:
    """Return one table with a line per variant, for a rich console of 90 columns or more."""
    return Group(*(_rich_table(_overview(cards)) for cards in _by_hardware(catalog)))


def overview_markdown(catalog: Catalog) -> str:
    """Return one table with a line per variant, as Markdown."""
    return "\n\n".join(_markdown_table(_overview(cards)) for cards in _by_hardware(catalog))


def _by_hardware(catalog: Catalog) -> list[Cards]:
    return [cards_on(catalog, key) for key in hardware_keys(catalog)]


def sections(catalog: Catalog, hardware_key: str) -> Iterator[Section]:
    """Yield the tables of one kind of hardware, in reading order."""
    cards = cards_on(catalog, hardware_key)
    sizes = batch_sizes(cards)
    yield _answers(cards)
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        yield _speed(cards, size)
    yield _size(cards)
    yield _latencies(cards, sizes)
    if notes := [(name, note) for name in cards for note in catalog.variants[name].notes]:
        yield Section("Notes", ("variant", "note"), tuple(notes), is_last_column_words=True)
    yield _circumstances(cards)


def _overview(cards: Cards) -> Section:
    sizes = batch_sizes(cards)
    first, last = latencies_at(cards, sizes[0]), latencies_at(cards, sizes[-1])
    return Section(
        "",
        (
            "variant",
            "accuracy",
            "vs dense, points",
            f"p50 of {sizes[0]}, ms",
            f"p50 of {sizes[-1]}, ms",
            "MB",
        ),
        tuple(
            (
                name,
                f"{card.accuracy.value:.2%}",
                _interval(card.accuracy_difference, "{:+.2f}", scale=100),
                _median(first.get(name)),
                _median(last.get(name)),
                megabytes(card.weight_bytes),
            )
            for name, card in cards.items()
        ),
        is_last_column_words=False,
    )


def _median(latency: BatchLatency | None) -> str:
    """Return the median latency and, in brackets, how many times as fast as dense that is."""
    if latency is None:
        return "-"
    return f"{milliseconds(latency.p50_s)} ({latency.speedup.value:.2f}x)"


def _answers(cards: Cards) -> Section:
    return Section(
        "Answers",
        ("variant", "accuracy, %", "vs dense, points", "agreement, %", "accuracy is"),
        tuple(
            (
                name,
                _interval(card.accuracy, "{:.2f}", scale=100),
                _interval(card.accuracy_difference, "{:+.2f}", scale=100),
                _interval(card.agreement, "{:.2f}", scale=100),
                _REFERENCE if name == DENSE else accuracy_verdict(card.accuracy_difference),
            )
            for name, card in cards.items()
        ),
        is_last_column_words=True,
        note="[ ] are 95 % intervals; the difference is paired by sample. "
        "Agreement: same answer as dense.",
    )


def _speed(cards: Cards, size: int) -> Section:
    best = frontier_at(cards, size)
    return Section(
        f"Speed at batch {size}",
        ("  variant", "p50, ms", "p95, ms", "p99, ms", "samples/s", "speedup", "than dense"),
        tuple(
            (
                f"{_STAR if name in best else ' '} {name}",
                milliseconds(latency.p50_s),
                milliseconds(latency.p95_s),
                milliseconds(latency.p99_s),
                f"{latency.samples_per_s:,.0f}",
                _interval(latency.speedup, "{:.2f}"),
                _REFERENCE if name == DENSE else speed_verdict(latency.speedup),
            )
            for name, latency in latencies_at(cards, size).items()
        ),
        is_last_column_words=True,
        note=f"{_STAR} on the Pareto frontier: none is as accurate and as fast, and better in one.",
    )


def _size(cards: Cards) -> Section:
    return Section(
        "Size",
        ("variant", "parameters", "non-zeros", "weights, MB", "artifact, MB", "resident, MB"),
        tuple(
            (
                name,
                f"{card.parameters:,}",
                f"{card.nonzeros:,}",
                megabytes(card.weight_bytes),
                megabytes(card.artifact_bytes),
                megabytes(card.resident_bytes),
            )
            for name, card in cards.items()
        ),
        is_last_column_words=False,
        note="Resident: what a fresh process grows by when it loads and runs the variant.",
    )


def _latencies(cards: Cards, sizes: Sequence[int]) -> Section:
    at = {size: latencies_at(cards, size) for size in sizes}
    rows = []
    for name in cards:
        for label in ("p50", "p95", "p99", "speedup"):
            cells = [_latency(at[size].get(name), label) for size in sizes]
            rows.append((name if label == "p50" else "", label, *cells))
    return Section(
        "Latency by batch size, ms",
        ("variant", "", *(f"{size}" for size in sizes)),
        tuple(rows),
        is_last_column_words=False,
        note="(1.00x) is a speedup within noise.",
    )


def _circumstances(cards: Cards) -> Section:
    def each(*values: str) -> str:
        return "; ".join(dict.fromkeys(values))

    every = list(cards.values())
    return Section(
        "Measured on",
        ("", ""),
        (
            ("processor", each(*(card.hardware.processor for card in every))),
            ("flags", each(*(" ".join(card.hardware.flags) or "none known" for card in every))),
            ("threads", each(*(f"{card.hardware.threads}" for card in every))),
            ("libraries", each(*(_versions(card) for card in every))),
            ("test samples", each(*(f"{card.test_samples:,}" for card in every))),
            ("date", each(*(card.measured_at for card in every))),
        ),
        is_last_column_words=True,
    )


def milliseconds(seconds: float) -> str:
    """Write a duration in milliseconds with three digits that matter: `0.0712`, `4.25`, `1,340`."""
    milli = seconds * 1e3
    digits = next((n for limit, n in ((0.1, 4), (1, 3), (10, 2), (100, 1)) if milli < limit), 0)
    return f"{milli:,.{digits}f}"


def megabytes(size_bytes: int) -> str:
    """Write a size in MB of a million bytes."""
    return f"{size_bytes / 1e6:,.2f}"


def _interval(interval: Interval, form: str, *, scale: float = 1) -> str:
    value, low, high = (
        form.format(scale * end) for end in (interval.value, interval.low, interval.high)
    )
    # Dense against itself is known, not estimated.
    return value if interval.low == interval.high else f"{value} [{low}, {high}]"


def _latency(latency: BatchLatency | None, label: str) -> str:
    if latency is None:
        return "-"
    if label == "speedup":
        times = f"{latency.speedup.value:.2f}x"
        is_known = latency.speedup.low == latency.speedup.high
        return f"({times})" if speed_verdict(latency.speedup) == SAME and not is_known else times
    return milliseconds({"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}[label])


def _versions(card: ReportCard) -> str:
    return ", ".join(f"{name} {version}" for name, version in card.libraries.items())


def _markdown_table(section: Section) -> str:
    numbers = len(section.columns) - 1 - section.is_last_column_words
    rule = ("---", *["---:"] * numbers, *["---"] * section.is_last_column_words)
    return "\n".join(
        f"| {' | '.join(cell.strip() for cell in line)} |"
        for line in (section.columns, rule, *section.rows)
    )


def _rich_table(section: Section) -> Table:
    table = Table(
        title=section.title,
        title_justify="left",
        title_style="bold cyan",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_header=any(section.columns),
    )
    for index, column in enumerate(section.columns):
        is_words = index == 0 or (
            section.is_last_column_words and index == len(section.columns) - 1
        )
        table.add_column(column, justify="left" if is_words else "right", no_wrap=index == 0)
    for index, row in enumerate(section.rows):
        if index and row[0] and not section.rows[index - 1][0]:
            table.add_row()
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table
