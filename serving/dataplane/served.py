"""The variants that are served at one moment.

The object never changes: to serve others, the data plane replaces it. A request keeps the one with
which it was admitted until it is answered, so its qualifying variants, its accuracy and its reason
belong to the same generations, whatever is added, replaced or removed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Final

from serving.dataplane.explanation import Reasons
from serving.errors import ModelNotFound, SloUnattainable
from serving.routing.profile import VariantProfile, qualifying
from serving.routing.slo import Objective, Slo

MAX_CACHED_SLOS: Final = 1024
"""Number of SLOs whose qualifying variants are kept."""


class ServedVariants:
    """The profiles of the variants by name, and what follows from them."""

    def __init__(self, profiles: Mapping[str, VariantProfile]) -> None:
        self.profiles = dict(profiles)
        self.keys = {name: profile.key for name, profile in profiles.items()}
        """The routing key of each variant by its name."""
        self.by_key = {profile.key: profile for profile in profiles.values()}
        self.reasons = Reasons({key: each.tier_accuracy for key, each in self.by_key.items()})
        self._qualifying = lru_cache(MAX_CACHED_SLOS)(
            partial(_qualifying, self.profiles, self.keys)
        )

    def check_name(self, variant: str) -> None:
        """Raise `ModelNotFound`, with the names that exist, unless this variant is served."""
        if variant not in self.profiles:
            known = f"there are {', '.join(self.profiles)}" if self.profiles else "there is none"
            raise ModelNotFound(f"there is no variant {variant!r:.100}; {known}")

    def qualifying(self, slo: Slo) -> tuple[str, ...]:
        """Return the routing keys of the qualifying variants, best first; at least one.

        Raises `ModelNotFound` for an unknown variant, `SloUnattainable` if no variant qualifies.
        """
        if slo.variant is not None:
            self.check_name(slo.variant)
        variants = self._qualifying(
            slo.min_accuracy, slo.max_accuracy_drop, slo.objective, slo.variant
        )
        if not variants:
            raise self._unattainable(slo)
        return variants

    def _unattainable(self, slo: Slo) -> SloUnattainable:
        best = max(self.profiles.values(), key=lambda profile: profile.accuracy)
        closest = min(self.profiles.values(), key=lambda profile: profile.accuracy_drop)
        return SloUnattainable(
            f"no variant has an accuracy of at least {slo.min_accuracy:g} and a drop of at "
            f"most {slo.max_accuracy_drop:g}: the best accuracy is {best.accuracy:.4f} "
            f"({best.variant}), the smallest drop is {closest.accuracy_drop:.4f} "
            f"({closest.variant})"
        )


def _qualifying(
    profiles: Mapping[str, VariantProfile],
    keys: Mapping[str, str],
    min_accuracy: float,
    max_accuracy_drop: float,
    objective: Objective,
    variant: str | None,
) -> tuple[str, ...]:
    """Call `qualifying` with all of an SLO but its deadline, so that the result can be cached."""
    slo = Slo(
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        objective=objective,
        variant=variant,
    )
    return tuple(keys[name] for name in qualifying(profiles, slo))
