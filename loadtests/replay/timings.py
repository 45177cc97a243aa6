"""What batches of a live service took, as a file; and offers that are corrected by it.

Batches ─▶ timings ─▶ timings.json ─▶ corrected ─▶ offers, for a simulation of that service
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from loadtests.trials.outcomes import Batches
from serving.routing.profile import LatencyQuantiles, VariantProfile
from variants.catalog.record import Record

MIN_BATCHES: Final = 20
"""Batches of a size, for its quantiles to correct anything."""


class Timing(Record):
    """Batches of one size, from dispatch to answer: quantiles."""

    batches: int = Field(ge=1)
    p50_s: float = Field(gt=0)
    p95_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)


class Timings(Record):
    """By variant and batch size, those that there were."""

    variants: Mapping[str, Mapping[int, Timing]]


def summarize_timings(batches: Batches, variants: Sequence[str]) -> Timings:
    """Summarize batches; `variants` names what `batches.variant` counts."""
    found: dict[str, dict[int, Timing]] = {}
    for number in np.unique(batches.variant):
        of_variant = batches.variant == number
        sizes = found[variants[number]] = {}
        for size in np.unique(batches.size[of_variant]):
            took_s = batches.took_s[of_variant & (batches.size == size)]
            took_s = took_s[took_s > 0]  # the service's clock counts microseconds
            if len(took_s):
                p50_s, p95_s, p99_s = map(float, np.quantile(took_s, [0.5, 0.95, 0.99]))
                sizes[int(size)] = Timing(
                    batches=len(took_s), p50_s=p50_s, p95_s=p95_s, p99_s=p99_s
                )
    return Timings(variants=found)


def correct_profiles(
    profiles: Mapping[str, VariantProfile], measured: Timings
) -> dict[str, VariantProfile]:
    """Return the offers with latencies as they were measured live.

    Each quantile of a report card is multiplied by how far the live one is from it, at the sizes of
    which there were `MIN_BATCHES` batches; in between by what lies between, beyond by the nearest. A
    variant without such a size is taken to be as much slower than its card as the others, at their
    median: of a batch that nobody has seen, what is known is what the way there costs. Raises
    `ValueError` for timings of a variant that is not offered.
    """
    unknown = sorted(measured.variants.keys() - profiles.keys())
    if unknown:
        raise ValueError(
            f"timings are of variant {unknown[0]}, which is not offered; there are "
            f"{', '.join(profiles)}"
        )
    scaled = {
        name: _scaled(profile.latencies, measured.variants.get(name, {}))
        for name, profile in profiles.items()
    }
    more_s = [
        np.array(latency) - np.array(profiles[name].latencies[size])
        for name, latencies in scaled.items()
        for size, latency in latencies.items()
    ]
    added_s = np.maximum(np.median(more_s, axis=0), 0) if more_s else np.zeros(3)
    return {
        name: replace(profile, latencies=scaled[name] or _later(profile.latencies, added_s))
        for name, profile in profiles.items()
    }


def _scaled(
    card: Mapping[int, LatencyQuantiles], measured: Mapping[int, Timing]
) -> dict[int, LatencyQuantiles]:
    """Return the card as it was measured; nothing if that was not enough."""
    seen = sorted(size for size, timing in measured.items() if timing.batches >= MIN_BATCHES)
    if not seen:
        return {}
    sizes = sorted(card)
    known = np.log([card[size] for size in sizes])
    live = np.log([[(t := measured[size]).p50_s, t.p95_s, t.p99_s] for size in seen])
    quantiles = [
        known[:, place]
        + np.interp(sizes, seen, live[:, place] - np.interp(seen, sizes, known[:, place]))
        for place in range(len(LatencyQuantiles._fields))
    ]
    return _ordered(sizes, np.exp(quantiles).T)


def _later(
    card: Mapping[int, LatencyQuantiles], added_s: npt.NDArray[np.float64]
) -> dict[int, LatencyQuantiles]:
    return _ordered(sorted(card), np.array([card[size] for size in sorted(card)]) + added_s)


def _ordered(sizes: Sequence[int], rows: npt.NDArray[np.float64]) -> dict[int, LatencyQuantiles]:
    """Return latencies in which no quantile is below a lower one, whatever was added to them."""
    values = np.maximum.accumulate(rows, axis=1)
    return {
        size: LatencyQuantiles(*map(float, row)) for size, row in zip(sizes, values, strict=True)
    }
