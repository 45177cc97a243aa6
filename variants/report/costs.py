"""What the report says of a variant's costs: latency, load time, operations, memory, bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from variants.catalog.catalog import BatchLatency, ReportCard
from variants.catalog.comparison import (
    SAME,
    Cards,
    batch_sizes,
    faster_batches,
    frontier_at,
    latencies_at,
    speed_verdict,
)
from variants.catalog.recipe import DENSE
from variants.report.text import (
    NO_VALUE,
    REFERENCE,
    Section,
    interval,
    megabytes,
    millions,
    milliseconds,
)

_STAR: Final = "★"


def cost_sections(cards: Cards) -> Iterator[Section]:
    """Yield the tables about costs, in reading order."""
    sizes = batch_sizes(cards)
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        yield _speed(cards, size)
    yield _latencies(cards, sizes)
    yield _crossover(cards, sizes)
    yield _operations(cards)
    yield _bytes(cards)
    yield _memory(cards)


def _speed(cards: Cards, size: int) -> Section:
    best = frontier_at(cards, size)
    at = latencies_at(cards, size)
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
                interval(latency.speedup, "{:.2f}"),
                _speed_word(name, latency),
            )
            for name, latency in at.items()
        ),
        is_last_column_text=True,
        note=f"{_STAR} on the Pareto frontier: none is as accurate and as fast, and better in one. "
        f"{_held_against(next(iter(at.values())))}",
    )


def _speed_word(name: str, latency: BatchLatency) -> str:
    is_reference = name == DENSE and latency.speedup.low == latency.speedup.high
    return REFERENCE if is_reference else speed_verdict(latency.speedup)


def _held_against(latency: BatchLatency) -> str:
    """Say in which runtime dense is the reference, and what it takes in the others."""
    others = [
        f"{milliseconds(p50_s)} ms in {runtime}"
        for runtime, p50_s in latency.dense_p50_s.items()
        if runtime != latency.reference
    ]
    best = f"{milliseconds(latency.dense_p50_s[latency.reference])} ms in {latency.reference}"
    return f"Dense: {best}{', the faster; ' if others else ''}{'; '.join(others)}."


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
        is_last_column_text=False,
        note="(1.00x) is a speedup within noise.",
    )


def _latency(latency: BatchLatency | None, label: str) -> str:
    if latency is None:
        return NO_VALUE
    if label == "speedup":
        times = f"{latency.speedup.value:.2f}x"
        is_known = latency.speedup.low == latency.speedup.high
        return f"({times})" if speed_verdict(latency.speedup) == SAME and not is_known else times
    return milliseconds({"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}[label])


def _crossover(cards: Cards, sizes: Sequence[int]) -> Section:
    at = {size: next(iter(latencies_at(cards, size).values())) for size in sizes}
    dense = ", ".join(f"{size} {latency.reference}" for size, latency in at.items())
    return Section(
        "Crossover",
        ("variant", "faster than dense at batch sizes"),
        tuple((name, _faster(card)) for name, card in cards.items() if name != DENSE),
        is_last_column_text=True,
        note=f"Of those measured, and beyond noise. The faster runtime of dense by batch: {dense}.",
    )


def _faster(card: ReportCard) -> str:
    runs = faster_batches(card.latencies)
    first, last = card.latencies[0].batch_size, card.latencies[-1].batch_size
    if not runs:
        return "none"
    if runs == ((first, last),):
        return "all"
    return ", ".join(
        f"{begin}" if begin == end else f"{begin} on" if end == last else f"{begin} to {end}"
        for begin, end in runs
    )


def _operations(cards: Cards) -> Section:
    return Section(
        "Size",
        ("variant", "parameters", "non-zeros", "MACs, millions", "without zeros"),
        tuple(
            (
                name,
                f"{card.parameters:,}",
                f"{card.nonzeros:,}",
                NO_VALUE if card.macs is None else millions(card.macs.dense),
                NO_VALUE if card.macs is None else millions(card.macs.effective),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="MACs: multiplications with addition for the first test sample, in matrix products "
        "and convolutions; without those by a weight that is zero.",
    )


def _bytes(cards: Cards) -> Section:
    return Section(
        "Bytes, MB",
        ("variant", "weights", "served", "compressed", "artifact"),
        tuple(
            (
                name,
                megabytes(card.weight_bytes),
                megabytes(card.served_bytes),
                megabytes(card.compressed_bytes),
                megabytes(card.artifact_bytes),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="Served: the files that the runner reads; compressed: those, by zlib at level 6; "
        "artifact: all files.",
    )


def _memory(cards: Cards) -> Section:
    return Section(
        "Load time and memory",
        ("variant", "load, ms", "least", "most", "resident, MB", "peak, MB"),
        tuple(
            (
                name,
                milliseconds(card.load.median_s),
                milliseconds(card.load.least_s),
                milliseconds(card.load.most_s),
                megabytes(card.resident_bytes),
                megabytes(card.peak_bytes),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="In fresh processes, libraries imported: from loading to the first answer (the median "
        "of a few); growth of memory after running every batch size, and at most.",
    )
