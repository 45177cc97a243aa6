"""The report cards of a catalog as tables in the terminal, as Markdown and as JSON.

catalog ─▶ sections (tables of text) ─▶ terminal
                                     ─▶ Markdown    (HTML: `variants.report.html`)
        ─▶ JSON: the catalog itself, as the router reads it
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from variants.catalog.catalog import BatchLatency, Catalog, Model, ReportCard, Variant
from variants.catalog.comparison import (
    BETTER,
    FASTER,
    SLOWER,
    WORSE,
    Cards,
    batch_sizes,
    cards_on,
    hardware_keys,
    latencies_at,
)
from variants.catalog.coverage import describe_untouched, percent
from variants.report.answers import answer_sections
from variants.report.costs import cost_sections
from variants.report.kernels import kernel_sections
from variants.report.text import (
    NO_VALUE,
    REFERENCE,
    Section,
    interval,
    milliseconds,
    size,
    size_unit,
)

PLOTS: Final = {
    "frontier.png": "Accuracy against latency",
    "speedups.png": "Speedup over dense by batch size",
}
"""Titles of the plots by file name, relative to the Markdown file."""

_STYLES: Final = {BETTER: "green", FASTER: "green", WORSE: "red", SLOWER: "red", REFERENCE: "dim"}


def render_json(catalog: Catalog) -> str:
    """Return the catalog as one JSON document, readable by `Catalog.model_validate_json`."""
    return catalog.model_dump_json(indent=2)


def render_markdown(catalog: Catalog) -> str:
    """Return the report as Markdown. It refers to the plots `PLOTS` in the same folder."""
    parts = [f"# Report cards of {catalog.model.name}"]
    parts += [f"![{title}]({file})" for file, title in PLOTS.items()]
    for key in hardware_keys(catalog):
        parts.append(f"## {key}")
        for section in sections(catalog, key):
            parts += [f"### {section.title}", _markdown_table(section), section.note]
    return "\n\n".join(filter(None, parts)) + "\n"


def render_table(catalog: Catalog) -> RenderableType:
    """Return the report for a rich console of at least 100 columns."""
    parts: list[RenderableType] = []
    for key in hardware_keys(catalog):
        parts.append(Text(f"\n{catalog.model.name} on {key}", style="bold"))
        for section in sections(catalog, key):
            parts += [Text(), _rich_table(section)]
            if section.note:
                parts.append(Text(f" {section.note}", style="dim"))
    return Group(*(parts or [Text("No variant has a report card yet.")]))


def render_overview(catalog: Catalog) -> RenderableType:
    """Return one table with a line per variant, for a rich console of at least 90 columns."""
    parts: list[RenderableType] = []
    for cards in _by_hardware(catalog):
        section = _overview(cards)
        parts.append(_rich_table(section))
        if section.note:
            parts.append(Text(f" {section.note}", style="dim"))
    return Group(*parts)


def overview_markdown(catalog: Catalog) -> str:
    """Return one table with a line per variant, as Markdown."""
    overviews = [_overview(cards) for cards in _by_hardware(catalog)]
    parts = [part for section in overviews for part in (_markdown_table(section), section.note)]
    return "\n\n".join(filter(None, parts))


def _by_hardware(catalog: Catalog) -> list[Cards]:
    return [cards_on(catalog, key) for key in hardware_keys(catalog)]


def sections(catalog: Catalog, hardware_key: str) -> Iterator[Section]:
    """Yield the tables for one hardware key in reading order."""
    cards = cards_on(catalog, hardware_key)
    yield from answer_sections(cards)
    yield from cost_sections(cards)
    yield from kernel_sections(cards)
    variants = [catalog.variants[name] for name in cards]
    yield _recipes(variants, cards)
    yield from _coverage(variants)
    if notes := [(variant.name, note) for variant in variants for note in variant.notes]:
        yield Section("Notes", ("variant", "note"), tuple(notes), is_last_column_text=True)
    yield _measurement(catalog.model, cards)


def _overview(cards: Cards) -> Section:
    sizes = batch_sizes(cards)
    first, last = latencies_at(cards, sizes[0]), latencies_at(cards, sizes[-1])
    unit = size_unit(card.weight_bytes for card in cards.values())
    return Section(
        "",
        (
            "variant",
            "accuracy",
            "vs dense, points",
            f"p50 of {sizes[0]}, ms",
            f"p50 of {sizes[-1]}, ms",
            unit,
        ),
        tuple(
            (
                name,
                f"{card.accuracy.value:.2%}",
                interval(card.accuracy_difference, "{:+.2f}", scale=100),
                _median(first.get(name)),
                _median(last.get(name)),
                size(card.weight_bytes, unit),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note=_quick_note(cards),
    )


def _quick_note(cards: Cards) -> str:
    """Return a sentence on the cards that were measured for a short time; "" if there are none."""
    quick = [name for name, card in cards.items() if card.timing and card.timing.is_quick]
    if not quick:
        return ""
    names = "all variants" if len(quick) == len(cards) else ", ".join(quick)
    return f"Measured quickly, so that latencies and speedups are less certain: {names}."


def _median(latency: BatchLatency | None) -> str:
    """Return the median latency and, in parentheses, the speedup over dense."""
    if latency is None:
        return NO_VALUE
    return f"{milliseconds(latency.p50_s)} ({latency.speedup.value:.2f}x)"


def _recipes(variants: list[Variant], cards: Cards) -> Section:
    def recipe(variant: Variant) -> str:
        steps = []
        for step in variant.recipe:
            parameters = ", ".join(f"{name}={value}" for name, value in step.parameters.items())
            steps.append(f"{step.technique}({parameters})" if parameters else step.technique)
        return ", then ".join(steps) or "as trained"

    return Section(
        "Recipes",
        ("variant", "runtime", "provider", "recipe"),
        tuple(
            (variant.name, variant.runner, _provider(cards[variant.name]), recipe(variant))
            for variant in variants
        ),
        is_last_column_text=True,
        note=" ".join(
            f"Of {name}, {provider} runs {', '.join(operators)}."
            for name, card in cards.items()
            for provider, operators in card.elsewhere.items()
        ),
    )


def _coverage(variants: list[Variant]) -> Iterator[Section]:
    """Yield the table of what each step changed, if there is a step."""
    rows = [
        (
            variant.name if number == 0 else "",
            step.technique,
            percent(step.share),
            describe_untouched(step.untouched, most=None) or "nothing",
        )
        for variant in variants
        for number, step in enumerate(variant.coverage)
    ]
    if rows:
        yield Section(
            "Coverage",
            ("variant", "step", "weights touched", "left alone"),
            tuple(rows),
            is_last_column_text=True,
            note="Share of the parameters that a step was given, in tensors that it changed, "
            "masked, stored in fewer bits or made smaller.",
        )


def _provider(card: ReportCard) -> str:
    return (card.provider or NO_VALUE).removesuffix("ExecutionProvider")


def _measurement(model: Model, cards: Cards) -> Section:
    def distinct(*values: str) -> str:
        return "; ".join(dict.fromkeys(values))

    all_cards = list(cards.values())
    return Section(
        "Measurement",
        ("", ""),
        (
            ("processor", distinct(*(card.hardware.processor for card in all_cards))),
            (
                "flags",
                distinct(*(" ".join(card.hardware.flags) or "unknown" for card in all_cards)),
            ),
            ("threads", distinct(*(f"{card.hardware.threads}" for card in all_cards))),
            ("CPUs of the process", distinct(*(_cpus(card) for card in all_cards))),
            ("GPU", distinct(*(card.hardware.gpu or "none used" for card in all_cards))),
            ("load average", distinct(*(_load(card) for card in all_cards))),
            ("libraries", distinct(*(_versions(card) for card in all_cards))),
            ("commit", distinct(*(card.provenance.commit or "unknown" for card in all_cards))),
            ("seed", distinct(*(f"{card.provenance.seed}" for card in all_cards))),
            ("weights, sha256", model.weights_sha256 or "unknown"),
            ("datasets, sha256", model.datasets_sha256 or "unknown"),
            ("test samples", distinct(*(f"{card.test_samples:,}" for card in all_cards))),
            ("timing", distinct(*(_timing(card) for card in all_cards))),
            ("date", distinct(*(card.measured_at for card in all_cards))),
        ),
        is_last_column_text=True,
    )


def _cpus(card: ReportCard) -> str:
    return "unknown" if card.hardware.cpus is None else f"{card.hardware.cpus}"


def _timing(card: ReportCard) -> str:
    return "unknown" if card.timing is None else card.timing.describe()


def _load(card: ReportCard) -> str:
    load = card.provenance.load_average
    return "unknown" if load is None else f"{load:.2f}"


def _versions(card: ReportCard) -> str:
    return ", ".join(f"{name} {version}" for name, version in card.libraries.items())


def _markdown_table(section: Section) -> str:
    rule = ["---" if section.is_text_column(n) else "---:" for n in range(len(section.columns))]
    return "\n".join(
        f"| {' | '.join(cell.strip().replace('|', chr(92) + '|') for cell in line)} |"
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
        is_text_column = section.is_text_column(index)
        table.add_column(column, justify="left" if is_text_column else "right", no_wrap=index == 0)
    for index, row in enumerate(section.rows):
        if index and row[0] and not section.rows[index - 1][0]:
            table.add_row()
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table
