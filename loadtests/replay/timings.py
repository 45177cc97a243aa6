"""Batch durations measured on a live service, and variant profiles corrected by them.

Batches ─▶ summarize_timings ─▶ timings.json ─▶ correct_profiles ─▶ profiles for a simulation
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
"""Minimum number of batches of a size for its quantiles to be used."""


class Timing(Record):
    """Quantiles of the time from dispatch to response, over batches of one size."""

    batches: int = Field(ge=1)
    p50_s: float = Field(gt=0)
    p95_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)


class Timings(Record):
    """Timings by variant and batch size, for the sizes that occurred."""

    variants: Mapping[str, Mapping[int, Timing]]


def summarize_timings(batches: Batches, variants: Sequence[str]) -> Timings:
    """Return the quantiles of batches; `batches.variant` holds indices into `variants`."""
    timings: dict[str, dict[int, Timing]] = {}
    for number in np.unique(batches.variant):
        of_variant = batches.variant == number
        sizes = timings[variants[number]] = {}
        for size in np.unique(batches.size[of_variant]):
            took_s = batches.took_s[of_variant & (batches.size == size)]
            took_s = took_s[took_s > 0]  # it may be 0, because the service reports microseconds
            if len(took_s):
                p50_s, p95_s, p99_s = map(float, np.quantile(took_s, [0.5, 0.95, 0.99]))
                sizes[int(size)] = Timing(
                    batches=len(took_s), p50_s=p50_s, p95_s=p95_s, p99_s=p99_s
                )
    return Timings(variants=timings)


def correct_profiles(
    profiles: Mapping[str, VariantProfile], measured: Timings
) -> dict[str, VariantProfile]:
    """Return the profiles with latencies as measured on the live service.

    Each quantile of a report card is multiplied by the ratio of the live quantile to it, at the
    sizes with at least `MIN_BATCHES` batches. Between two such sizes the logarithm of the ratio is
    interpolated; beyond them the nearest ratio is used. The median difference of the others is
    added to a variant without such a size, as an estimate of the transport time.

    Raises ValueError if there are timings of a variant that is not in `profiles`.
    """
    unknown = sorted(measured.variants.keys() - profiles.keys())
    if unknown:
        raise ValueError(
            f"there are timings of variant {unknown[0]}, which is not in the catalog; its variants "
            f"are {', '.join(profiles)}"
        )
    scaled = {
        name: _scaled(profile.latencies, measured.variants.get(name, {}))
        for name, profile in profiles.items()
    }
    added_s = [
        np.array(latency) - np.array(profiles[name].latencies[size])
        for name, latencies in scaled.items()
        for size, latency in latencies.items()
    ]
    median_s = np.maximum(np.median(added_s, axis=0), 0) if added_s else np.zeros(3)
    return {
        name: replace(profile, latencies=scaled[name] or _add(profile.latencies, median_s))
        for name, profile in profiles.items()
    }


def _scaled(
    card: Mapping[int, LatencyQuantiles], measured: Mapping[int, Timing]
) -> dict[int, LatencyQuantiles]:
    """Return the card scaled to the measured quantiles; empty if there are too few batches."""
    enough = sorted(size for size, timing in measured.items() if timing.batches >= MIN_BATCHES)
    if not enough:
        return {}
    sizes = sorted(card)
    known = np.log([card[size] for size in sizes])
    live = np.log([[(t := measured[size]).p50_s, t.p95_s, t.p99_s] for size in enough])
    quantiles = [
        known[:, place]
        + np.interp(sizes, enough, live[:, place] - np.interp(enough, sizes, known[:, place]))
        for place in range(len(LatencyQuantiles._fields))
    ]
    return _to_card(sizes, np.exp(quantiles).T)


def _add(
    card: Mapping[int, LatencyQuantiles], added_s: npt.NDArray[np.float64]
) -> dict[int, LatencyQuantiles]:
    return _to_card(sorted(card), np.array([card[size] for size in sorted(card)]) + added_s)


def _to_card(sizes: Sequence[int], rows: npt.NDArray[np.float64]) -> dict[int, LatencyQuantiles]:
    """Return latencies by size; raises each quantile to at least the next lower one."""
    values = np.maximum.accumulate(rows, axis=1)
    return {
        size: LatencyQuantiles(*map(float, row)) for size, row in zip(sizes, values, strict=True)
    }
