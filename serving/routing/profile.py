"""What each variant offers, and which of them qualify for an SLO.

catalog + hardware ─▶ Offer per variant;   Slo ─▶ those that qualify, best first
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.routing.slo import Slo
from variants.catalog.catalog import Catalog, ReportCard
from variants.catalog.comparison import hardware_keys

logger = logging.getLogger(__name__)


class LatencyQuantiles(NamedTuple):
    """What batches of one size take, as quantiles."""

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class VariantProfile:
    """What the report card of a variant promises, as far as routing cares."""

    variant: str
    accuracy: float
    accuracy_drop: float
    """Upper end of the 95 % interval of the drop against dense."""
    agreement: float
    weight_bytes: int
    artifact_bytes: int
    latencies: Mapping[int, LatencyQuantiles]
    """By batch size."""

    @property
    def seconds_per_sample(self) -> float:
        """What a sample costs at best: replica-seconds."""
        return min(latency.p95_s / size for size, latency in self.latencies.items())

    @property
    def fastest_batch_s(self) -> float:
        """What its quickest batch takes: the 95th percentile."""
        return min(latency.p95_s for latency in self.latencies.values())


def variant_profiles(
    catalog: Catalog, hardware_key: str, only: Sequence[str] = ()
) -> dict[str, VariantProfile]:
    """Return by variant what it offers on this kind of hardware.

    A variant that was measured on other hardware only is taken by that card, with a warning: its
    accuracy holds, and its latencies are corrected by what is seen live. Of several other kinds of
    hardware, one that every variant was measured on comes first, then the newest.

    Raises `ValueError` if `only` names a variant that the catalog lacks, or a variant was never
    measured.
    """
    unknown = set(only) - set(catalog.variants)
    if unknown:
        raise ValueError(
            f"no such variant in the catalog: {', '.join(sorted(unknown))}; "
            f"it has {', '.join(catalog.variants)}"
        )
    variants = {n: variant for n, variant in catalog.variants.items() if not only or n in only}
    newest = hardware_keys(catalog)
    on_all = [key for key in newest if all(v.report_card(key) for v in variants.values())]
    found = {}
    for name, variant in variants.items():
        cards = (variant.report_card(key) for key in (hardware_key, *on_all, *newest))
        card = next(filter(None, cards), None)
        if card is None:
            raise ValueError(f"variant {name} has no report card; run `paretoserve measure`")
        if card.hardware.key != hardware_key:
            logger.warning(
                "measured on other hardware; `paretoserve measure` would measure it here",
                extra={"variant": name},
            )
        found[name] = _profile(name, card)
    return found


def qualifying(profiles: Mapping[str, VariantProfile], slo: Slo) -> tuple[str, ...]:
    """Return the variants that an SLO's floors allow, best first by its objective.

    For `latency` the order is that of batch size 1; what is fastest right now is the policy's call.
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
            allowed.sort(key=lambda profile: (-profile.accuracy, profile.seconds_per_sample))
        case "latency":
            allowed.sort(key=lambda profile: profile.fastest_batch_s)
        case "cost":
            allowed.sort(key=lambda profile: (profile.seconds_per_sample, -profile.accuracy))
    return tuple(profile.variant for profile in allowed)


def _profile(name: str, card: ReportCard) -> VariantProfile:
    return VariantProfile(
        variant=name,
        accuracy=card.accuracy.value,
        accuracy_drop=max(0.0, -card.accuracy_difference.low),
        agreement=card.agreement.value,
        weight_bytes=card.weight_bytes,
        artifact_bytes=card.artifact_bytes,
        latencies={
            measured.batch_size: LatencyQuantiles(measured.p50_s, measured.p95_s, measured.p99_s)
            for measured in card.latencies
        },
    )
