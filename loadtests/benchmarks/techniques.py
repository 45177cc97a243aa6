"""Compares techniques across models: the report cards of several catalogs in one table.

    python -m loadtests.benchmarks.techniques CATALOG... [--markdown]

The command measures nothing: `paretoserve build` and `paretoserve measure` write report cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks import options
from loadtests.trials.grid import Grid, show
from variants.catalog.catalog import BatchLatency, Catalog, ReportCard
from variants.catalog.comparison import cards_on, hardware_keys, latencies_at
from variants.catalog.recipe import DENSE
from variants.report.text import NO_VALUE, interval, millions, size

BATCHES: Final = (1, 16)
COLUMNS: Final = (
    "model and variant",
    "parameters, M",
    "nonzero",
    "weights, MB",
    "MB vs dense",
    "accuracy vs dense, points",
    *(f"speedup at batch {batch}" for batch in BATCHES),
)


def rows(folder: Path, catalog: Catalog, key: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each variant, with its measurements on the hardware of this key.

    Raises ValueError if a variant was not measured on it.
    """
    cards = cards_on(catalog, key)
    if missing := sorted(catalog.variants.keys() - cards.keys()):
        raise ValueError(
            f"{folder}: no report card on {key} for {', '.join(missing)}; run `paretoserve measure`"
        )
    latencies = [latencies_at(cards, batch) for batch in BATCHES]
    dense = cards[DENSE]
    for name, card in cards.items():
        yield (
            f"{catalog.model.name}: {name}",
            millions(card.parameters),
            f"{card.nonzeros / card.parameters:.0%}",
            size(card.weight_bytes, "MB"),
            f"{card.weight_bytes / dense.weight_bytes:.1%}",
            _accuracy(name, card),
            *(_speedup(at.get(name)) for at in latencies),
        )


def latest_hardware_key(folder: Path, catalog: Catalog) -> str:
    """Return the key of the hardware of the latest measurement.

    Raises ValueError if the catalog has no report cards.
    """
    keys = hardware_keys(catalog)
    if not keys:
        raise ValueError(f"{folder}: no report cards; run `paretoserve measure`")
    return keys[0]


def _accuracy(name: str, card: ReportCard) -> str:
    if name == DENSE:
        return f"{card.accuracy.value:.2%} of {card.test_samples:,}"
    return interval(card.accuracy_difference, "{:+.2f}", scale=100)


def _speedup(latency: BatchLatency | None) -> str:
    return NO_VALUE if latency is None else interval(latency.speedup, "{:.2f}")


@click.command()
@click.argument("catalogs", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.markdown
def main(catalogs: tuple[Path, ...], as_markdown: bool) -> None:
    """Print the report cards of CATALOGS as one table."""
    loaded = {folder: Catalog.load(folder) for folder in catalogs}
    keys = {latest_hardware_key(folder, catalog) for folder, catalog in loaded.items()}
    if len(keys) > 1:
        raise ValueError(f"the catalogs were measured on different machines: {sorted(keys)}")
    (key,) = keys
    lines = [row for folder, catalog in loaded.items() for row in rows(folder, catalog, key)]
    note = f"Measured on {key}. Intervals are 95 % intervals; differences are paired."
    show([Grid("Techniques", COLUMNS, lines, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()
