"""Report tables on costs: latency, load time, operations, memory, storage."""

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
    millions,
    milliseconds,
    size,
    size_unit,
)

_STAR: Final = "★"


def cost_sections(cards: Cards) -> Iterator[Section]:
    """Yield the tables on costs in reading order."""
    sizes = batch_sizes(cards)
    for batch in dict.fromkeys((sizes[0], sizes[-1])):
        yield _speed(cards, batch)
    yield _latencies(cards, sizes)
    yield _crossover(cards, sizes)
    yield _operations(cards)
    yield _storage(cards)
    yield _memory(cards)


def _speed(cards: Cards, batch: int) -> Section:
    best = frontier_at(cards, batch)
    at = latencies_at(cards, batch)
    return Section(
        f"Speed at batch {batch}",
        ("  variant", "p50, ms", "p95, ms", "p99, ms", "samples/s", "speedup", "verdict"),
        tuple(
            (
                f"{_STAR if name in best else ' '} {name}",
                milliseconds(latency.p50_s),
                milliseconds(latency.p95_s),
                milliseconds(latency.p99_s),
                f"{latency.samples_per_s:,.0f}",
                interval(latency.speedup, "{:.2f}"),
                _speed_verdict(name, latency),
            )
            for name, latency in at.items()
        ),
        is_last_column_text=True,
        note=f"{_STAR} on the Pareto frontier of accuracy and p50. "
        f"{_dense_runtimes(next(iter(at.values())))}",
    )


def _speed_verdict(name: str, latency: BatchLatency) -> str:
    is_reference = name == DENSE and latency.speedup.low == latency.speedup.high
    return REFERENCE if is_reference else speed_verdict(latency.speedup)


def _dense_runtimes(latency: BatchLatency) -> str:
    """Return the latency of dense in its fastest runtime, the reference, and in the others."""
    others = [
        f"{milliseconds(p50_s)} ms in {runtime}"
        for runtime, p50_s in latency.dense_p50_s.items()
        if runtime != latency.reference
    ]
    fastest = f"{milliseconds(latency.dense_p50_s[latency.reference])} ms in {latency.reference}"
    return f"Dense: {fastest}{' (the reference), ' if others else ''}{', '.join(others)}."


def _latencies(cards: Cards, sizes: Sequence[int]) -> Section:
    at = {batch: latencies_at(cards, batch) for batch in sizes}
    rows = []
    for name in cards:
        for label in ("p50", "p95", "p99", "speedup"):
            cells = [_latency(at[batch].get(name), label) for batch in sizes]
            rows.append((name if label == "p50" else "", label, *cells))
    return Section(
        "Latency by batch size, ms",
        ("variant", "", *(f"{batch}" for batch in sizes)),
        tuple(rows),
        is_last_column_text=False,
        note="Speedups in parentheses are within noise.",
    )


def _latency(latency: BatchLatency | None, label: str) -> str:
    if latency is None:
        return NO_VALUE
    if label == "speedup":
        ratio = f"{latency.speedup.value:.2f}x"
        is_exact = latency.speedup.low == latency.speedup.high
        return f"({ratio})" if speed_verdict(latency.speedup) == SAME and not is_exact else ratio
    return milliseconds({"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}[label])


def _crossover(cards: Cards, sizes: Sequence[int]) -> Section:
    at = {batch: next(iter(latencies_at(cards, batch).values())) for batch in sizes}
    dense = ", ".join(f"{batch} {latency.reference}" for batch, latency in at.items())
    return Section(
        "Crossover",
        ("variant", "faster than dense at batch sizes"),
        tuple((name, _faster_ranges(card)) for name, card in cards.items() if name != DENSE),
        is_last_column_text=True,
        note=f"Measured batch sizes with a significant speedup. Reference runtimes: {dense}.",
    )


def _faster_ranges(card: ReportCard) -> str:
    ranges = faster_batches(card.latencies)
    first, last = card.latencies[0].batch_size, card.latencies[-1].batch_size
    if not ranges:
        return "none"
    if ranges == ((first, last),):
        return "all"
    return ", ".join(
        f"{begin}" if begin == end else f"{begin} and up" if end == last else f"{begin} to {end}"
        for begin, end in ranges
    )


def _operations(cards: Cards) -> Section:
    return Section(
        "Size",
        ("variant", "parameters", "nonzeros", "MACs, millions", "effective MACs"),
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
        note="MACs: multiply-accumulate operations in matrix products and convolutions, for the "
        "first test sample. Effective: without those with zero weights.",
    )


def _storage(cards: Cards) -> Section:
    sizes = {
        name: (
            card.weight_bytes,
            card.served_bytes,
            card.compressed_bytes,
            card.artifact_bytes,
        )
        for name, card in cards.items()
    }
    unit = size_unit(each for row in sizes.values() for each in row)
    return Section(
        f"Storage, {unit}",
        ("variant", "weights", "runner files", "compressed", "artifact"),
        tuple((name, *(size(each, unit) for each in row)) for name, row in sizes.items()),
        is_last_column_text=False,
        note="Runner files: the files that the runner reads. Compressed: those files by zlib at "
        "level 6. Artifact: all files.",
    )


def _memory(cards: Cards) -> Section:
    is_on_gpu = any(card.gpu_bytes is not None for card in cards.values())
    sizes = {
        name: (
            card.resident_bytes,
            card.peak_bytes,
            *((card.gpu_bytes,) if is_on_gpu else ()),
        )
        for name, card in cards.items()
    }
    unit = size_unit(each for row in sizes.values() for each in row)
    columns = ("variant", "load, ms", "min", "max", f"resident, {unit}", f"peak, {unit}")
    return Section(
        "Load time and memory",
        (*columns, f"GPU, {unit}") if is_on_gpu else columns,
        tuple(
            (
                name,
                milliseconds(card.load.median_s),
                milliseconds(card.load.least_s),
                milliseconds(card.load.most_s),
                *(size(each, unit) for each in sizes[name]),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="In fresh processes, after imports. Load: median time from loading to the first "
        "answer. Memory: growth after running every batch size, and peak growth."
        + (" GPU: growth of the memory in use there, by all processes." if is_on_gpu else ""),
    )
