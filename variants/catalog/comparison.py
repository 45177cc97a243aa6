"""Comparison of report cards, and verdicts on their differences.

A variant is called better or worse, faster or slower, only if the confidence interval excludes "no
difference". Cards of different hardware are never compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from variants.catalog.catalog import (
    BatchLatency,
    Catalog,
    ClassDifference,
    Interval,
    ReportCard,
    Variant,
)
from variants.catalog.frontier import FrontierPoint, frontier

Cards: TypeAlias = Mapping[str, ReportCard]
"""Report cards for one hardware key, by variant."""

BETTER: Final = "better"
WITHIN_NOISE: Final = "within noise"
WORSE: Final = "worse"
FASTER: Final = "faster"
SAME: Final = "same within noise"
SLOWER: Final = "slower"

_ALPHA: Final = 0.05


def accuracy_verdict(difference: Interval, margin: float = 0.0) -> str:
    """Return the verdict on an accuracy difference to dense.

    A difference is within noise unless its interval shows that it is larger than `margin`.
    """
    return _verdict(difference, 0.0, margin, above=BETTER, between=WITHIN_NOISE, below=WORSE)


def class_verdict(difference: ClassDifference) -> str:
    """Return the verdict on one class by its p-value, which is adjusted for all classes."""
    if difference.p_value >= _ALPHA:
        return WITHIN_NOISE
    return BETTER if difference.difference.value > 0 else WORSE


def speed_verdict(speedup: Interval) -> str:
    """Return the verdict on a speedup over dense."""
    return _verdict(speedup, 1.0, 0.0, above=FASTER, between=SAME, below=SLOWER)


def faster_batches(latencies: Sequence[BatchLatency]) -> tuple[tuple[int, int], ...]:
    """Return the ranges of batch sizes at which a variant is significantly faster than dense.

    Each pair is the first and last of consecutive measured sizes, in ascending order. The variant
    and dense cross over where a range begins or ends.
    """
    runs: list[tuple[int, int]] = []
    was_faster = False
    for latency in latencies:
        is_faster = speed_verdict(latency.speedup) == FASTER
        if is_faster:
            begin = runs.pop()[0] if was_faster else latency.batch_size
            runs.append((begin, latency.batch_size))
        was_faster = is_faster
    return tuple(runs)


def hardware_keys(catalog: Catalog) -> tuple[str, ...]:
    """Return the hardware keys of all report cards, those with the newest card first."""
    return newest_hardware_keys(catalog.variants.values())


def newest_hardware_keys(variants: Iterable[Variant]) -> tuple[str, ...]:
    """Return the hardware keys of these variants' cards, those with the newest card first."""
    newest: dict[str, str] = {}
    for variant in variants:
        for card in variant.report_cards:
            key = card.hardware.key
            newest[key] = max(card.measured_at, newest.get(key, ""))
    return tuple(sorted(newest, key=lambda key: newest[key], reverse=True))


def cards_on(catalog: Catalog, hardware_key: str) -> Cards:
    """Return the report cards for one hardware key, in the variant order of the catalog."""
    cards = {name: variant.report_card(hardware_key) for name, variant in catalog.variants.items()}
    return {name: card for name, card in cards.items() if card is not None}


def batch_sizes(cards: Cards) -> tuple[int, ...]:
    """Return the batch sizes of all cards, in ascending order."""
    return tuple(
        sorted({latency.batch_size for card in cards.values() for latency in card.latencies})
    )


def latencies_at(cards: Cards, batch_size: int) -> dict[str, BatchLatency]:
    """Return the latencies at a batch size, for the variants measured at that size."""
    return {
        name: latency
        for name, card in cards.items()
        for latency in card.latencies
        if latency.batch_size == batch_size
    }


def frontier_at(cards: Cards, batch_size: int) -> frozenset[str]:
    """Return the Pareto frontier of accuracy and median latency at a batch size."""
    return frontier(
        {
            name: FrontierPoint(cards[name].accuracy.value, latency.p50_s)
            for name, latency in latencies_at(cards, batch_size).items()
        }
    )


def _verdict(
    interval: Interval, neutral: float, margin: float, *, above: str, between: str, below: str
) -> str:
    if interval.low > neutral + margin:
        return above
    return below if interval.high < neutral - margin else between
