"""Report cards side by side: which may be compared, and what can be said of the difference.

Words are chosen by intervals: a variant is better or worse, faster or slower, only where the
interval leaves out "no difference". Cards of different hardware never compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from variants.catalog.catalog import BatchLatency, Catalog, ClassDifference, Interval, ReportCard
from variants.catalog.frontier import FrontierPoint, frontier

Cards: TypeAlias = Mapping[str, ReportCard]
"""Report cards of one kind of hardware, by variant."""

BETTER: Final = "better"
WITHIN_NOISE: Final = "within noise"
WORSE: Final = "worse"
FASTER: Final = "faster"
SAME: Final = "same within noise"
SLOWER: Final = "slower"

_ALPHA: Final = 0.05


def accuracy_verdict(difference: Interval) -> str:
    """Say whether a difference of accuracy to dense's is more than noise."""
    return _verdict(difference, 0.0, above=BETTER, between=WITHIN_NOISE, below=WORSE)


def class_verdict(difference: ClassDifference) -> str:
    """Say whether a class is more than noise away from dense, with all classes looked at."""
    if difference.p_value >= _ALPHA:
        return WITHIN_NOISE
    return BETTER if difference.difference.value > 0 else WORSE


def speed_verdict(speedup: Interval) -> str:
    """Say whether a speedup over dense is more than noise."""
    return _verdict(speedup, 1.0, above=FASTER, between=SAME, below=SLOWER)


def faster_batches(latencies: Sequence[BatchLatency]) -> tuple[tuple[int, int], ...]:
    """Return from which to which batch size a variant is faster than dense, beyond noise.

    Each pair is the first and the last of a run of measured sizes, ascending; where one ends or
    begins, the variant and dense cross over.
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
    """Return the kinds of hardware that the catalog has report cards of, newest card first."""
    newest: dict[str, str] = {}
    for variant in catalog.variants.values():
        for card in variant.report_cards:
            key = card.hardware.key
            newest[key] = max(card.measured_at, newest.get(key, ""))
    return tuple(sorted(newest, key=lambda key: newest[key], reverse=True))


def cards_on(catalog: Catalog, hardware_key: str) -> Cards:
    """Return the report cards of one kind of hardware, in the catalog's order of variants."""
    cards = {name: variant.report_card(hardware_key) for name, variant in catalog.variants.items()}
    return {name: card for name, card in cards.items() if card is not None}


def batch_sizes(cards: Cards) -> tuple[int, ...]:
    """Return every batch size that one of the cards has, ascending."""
    return tuple(sorted({one.batch_size for card in cards.values() for one in card.latencies}))


def latencies_at(cards: Cards, batch_size: int) -> dict[str, BatchLatency]:
    """Return what was measured at a batch size, of those variants that were measured at it."""
    return {
        name: one
        for name, card in cards.items()
        for one in card.latencies
        if one.batch_size == batch_size
    }


def frontier_at(cards: Cards, batch_size: int) -> frozenset[str]:
    """Return the variants that no other beats on accuracy and median latency at a batch size."""
    return frontier(
        {
            name: FrontierPoint(cards[name].accuracy.value, latency.p50_s)
            for name, latency in latencies_at(cards, batch_size).items()
        }
    )


def _verdict(interval: Interval, nothing: float, *, above: str, between: str, below: str) -> str:
    if interval.low > nothing:
        return above
    return below if interval.high < nothing else between
