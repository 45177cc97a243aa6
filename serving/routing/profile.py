"""The profiles of the variants, and the variants that qualify for an SLO.

catalog + hardware ─▶ VariantProfile by variant;   Slo ─▶ variants that qualify, best first
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.routing.generation import generation_key
from serving.routing.slo import Slo
from serving.routing.tiers import tier_accuracies
from variants.catalog.catalog import Catalog, ReportCard, Variant
from variants.catalog.comparison import newest_hardware_keys
from variants.catalog.recipe import DENSE

logger = logging.getLogger(__name__)


class LatencyQuantiles(NamedTuple):
    """Quantiles of the time of batches of one size, in seconds."""

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class VariantProfile:
    """The part of a variant's report card that the router uses."""

    variant: str
    accuracy: float
    """Measured accuracy."""
    tier_accuracy: float
    """Accuracy that the router compares: equal for variants that count as equally accurate. See
    `serving.routing.tiers`."""
    accuracy_drop: float
    """Upper end of the 95 % interval of the accuracy drop against dense."""
    agreement: float
    weight_bytes: int
    artifact_bytes: int
    latencies: Mapping[int, LatencyQuantiles]
    """Measured latencies by batch size."""
    generation: int = 1

    @property
    def key(self) -> str:
        """The routing key of the variant's generation."""
        return generation_key(self.variant, self.generation)

    @property
    def seconds_per_sample(self) -> float:
        """Cost of a sample in replica-seconds, at the most efficient batch size."""
        return min(latency.p95_s / size for size, latency in self.latencies.items())

    @property
    def fastest_batch_s(self) -> float:
        """95th percentile of the time of its fastest batch, in seconds."""
        return min(latency.p95_s for latency in self.latencies.values())


def variant_profiles(
    catalog: Catalog,
    hardware_key: str,
    only: Sequence[str] = (),
    accuracy_margin: float = 0.0,
) -> dict[str, VariantProfile]:
    """Return the profile of each variant on this kind of hardware, or of each variant in `only`.

    Variants count as equally accurate if they differ by at most `accuracy_margin`, or by no more
    than noise.

    A variant without a report card for this hardware gets that of other hardware, with a warning:
    its accuracy holds, and its latencies are corrected by live observations. Of several kinds of
    other hardware, one with report cards of every variant is preferred, then the newest.

    Raises `ValueError` if `only` names a variant that is not in the catalog, or if a variant or
    dense has no report card.
    """
    unknown = set(only) - set(catalog.variants)
    if unknown:
        raise ValueError(
            f"no such variant in the catalog: {', '.join(sorted(unknown))}; "
            f"it has {', '.join(catalog.variants)}"
        )
    variants = {n: variant for n, variant in catalog.variants.items() if not only or n in only}
    profiles = profiles_of(
        variants, catalog.variants[DENSE], hardware_key, accuracy_margin=accuracy_margin
    )
    for name, variant in variants.items():
        if variant.report_card(hardware_key) is None:
            logger.warning(
                "the report card is from other hardware; run `paretoserve measure` on this machine",
                extra={"variant": name},
            )
    return profiles


def profiles_of(
    variants: Mapping[str, Variant],
    dense: Variant,
    hardware_key: str,
    *,
    accuracy_margin: float = 0.0,
    generations: Mapping[str, int] | None = None,
) -> dict[str, VariantProfile]:
    """Return the profile of each of these variants, by name; see `variant_profiles`.

    `dense` is the reference of the tiers. `generations` has the generation of each variant, by
    default 1. Raises `ValueError` if a variant or `dense` has no report card.
    """
    newest = newest_hardware_keys([dense, *variants.values()])
    on_all = [key for key in newest if all(v.report_card(key) for v in variants.values())]
    keys = (hardware_key, *on_all, *newest)
    cards = {name: _report_card(variant, keys) for name, variant in variants.items()}
    tiers = tier_accuracies(
        {name: card.accuracy_difference for name, card in cards.items()},
        _report_card(dense, keys).accuracy.value,
        accuracy_margin,
    )
    numbers = generations or {}
    return {
        name: _profile(name, card, tiers[name], numbers.get(name, 1))
        for name, card in cards.items()
    }


def qualifying(profiles: Mapping[str, VariantProfile], slo: Slo) -> tuple[str, ...]:
    """Return the variants that satisfy an SLO's accuracy limits, best first by its objective.

    Of variants that count as equally accurate the cheapest one is first. For the objective
    `latency` they are ordered by their fastest batches; the policy decides which one answers first
    at the moment.
    """
    if slo.variant is not None:
        return (slo.variant,)
    allowed = [
        profile
        for profile in profiles.values()
        if profile.accuracy >= slo.min_accuracy and profile.accuracy_drop <= slo.max_accuracy_drop
    ]
    match slo.objective:
        case "accuracy":
            allowed.sort(key=lambda profile: (-profile.tier_accuracy, profile.seconds_per_sample))
        case "latency":
            allowed.sort(key=lambda profile: profile.fastest_batch_s)
        case "cost":
            allowed.sort(key=lambda profile: (profile.seconds_per_sample, -profile.tier_accuracy))
    return tuple(profile.variant for profile in allowed)


def _report_card(variant: Variant, keys: Sequence[str]) -> ReportCard:
    """Return the report card for the first of these hardware keys for which there is one."""
    card = next(filter(None, map(variant.report_card, keys)), None)
    if card is None:
        raise ValueError(f"variant {variant.name} has no report card; run `paretoserve measure`")
    return card


def _profile(name: str, card: ReportCard, tier_accuracy: float, generation: int) -> VariantProfile:
    return VariantProfile(
        variant=name,
        accuracy=card.accuracy.value,
        tier_accuracy=tier_accuracy,
        accuracy_drop=max(0.0, -card.accuracy_difference.low),
        agreement=card.agreement.value,
        weight_bytes=card.weight_bytes,
        artifact_bytes=card.artifact_bytes,
        latencies={
            measured.batch_size: LatencyQuantiles(measured.p50_s, measured.p95_s, measured.p99_s)
            for measured in card.latencies
        },
        generation=generation,
    )
