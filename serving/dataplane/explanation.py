"""The reason for the choice of a variant, in words, from the policy's reason code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from serving.experiment.assignment import ROUTER, Arm
from serving.routing.generation import variant_name
from serving.routing.slo import Objective, Slo

BEST: Final[Mapping[Objective, str]] = {
    "accuracy": "most accurate",
    "latency": "fastest",
    "cost": "cheapest",
}

MAX_CACHED_REASONS: Final = 1024
"""Number of texts that are kept. They differ in the code, the variants and the objective."""


class Reasons:
    """The reasons for the choices of a service, which are the same text for equal choices."""

    def __init__(self, tiers: Mapping[str, float]) -> None:
        """`tiers` has the accuracy of each variant's tier: equal for those that count as equal.

        Variants are given by their routing keys; the texts have their names.
        """
        self._choice = lru_cache(maxsize=MAX_CACHED_REASONS)(partial(_describe, tiers))

    def reason(
        self, code: str, variant: str, slo: Slo, qualifying: tuple[str, ...], arm: Arm | None
    ) -> str:
        """Return why `variant` answered a request, out of the `qualifying` variants, best first.

        `code` is the `Dispatch.reason` of the whole batch. The requests of a batch may differ in
        their qualifying variants, so the words depend on both.
        """
        if slo.variant is not None:
            return "pinned by the request"
        if arm is not None and arm.target != ROUTER:
            return f"arm {arm.name} of the experiment"
        return self._choice(code, variant, slo.objective, qualifying)


def _describe(
    tiers: Mapping[str, float],
    code: str,
    variant: str,
    objective: Objective,
    qualifying: tuple[str, ...],
) -> str:
    best = BEST[objective]
    passed_over, equal = list(qualifying[: qualifying.index(variant)]), list[str]()
    if objective == "accuracy":
        tier = tiers[variant]
        equal = [n for n in qualifying if n != variant and tiers[n] == tier]
        passed_over = [name for name in passed_over if name not in equal]
    equals = _listed("; counts as equally accurate, but slower now or unavailable: ", equal)
    match code:
        case "behind":
            return "the queue is behind: the variant that answers most queued requests in time"
        case "at risk":
            return "the deadline is at risk: the variant that is most likely to meet it"
        case "preferred" | "in time" if not passed_over or objective == "latency":
            return f"{best} variant that qualifies{equals}"
        case "preferred" | "in time":
            slower = _listed("; too slow now or unavailable: ", passed_over)
            return f"{best} variant that meets the deadline{equals}{slower}"
        case _:
            return f"chosen by the policy {code}"


def _listed(words: str, variants: Sequence[str]) -> str:
    return words + ", ".join(map(variant_name, variants)) if variants else ""
