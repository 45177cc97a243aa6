"""The SLO classes of the load test, and the numbers that each one asks for.

A number fits one model on one machine, so each is derived from a few probes of every variant, each
pinned, just before the test. `fastest` and `slowest` are the variants' 90th percentiles:

    class            latency within          accuracy at least
    strict-latency   3 x fastest             -                       only the fastest are so quick
    strict-accuracy  10 x slowest            the best there is       only the best will do
    balanced         5 x slowest             halfway, worst to best  all but the worst, in good time
    none             -                       -
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

STRICT_LATENCY: Final = "strict-latency"
STRICT_ACCURACY: Final = "strict-accuracy"
BALANCED: Final = "balanced"
NONE: Final = "none"
CLASSES: Final = (STRICT_LATENCY, STRICT_ACCURACY, BALANCED, NONE)

LATENCY_HEADER: Final = "x-slo-latency-ms"
ACCURACY_HEADER: Final = "x-slo-min-accuracy"


@dataclass(frozen=True, slots=True)
class Probe:
    """One variant as a few requests found it."""

    accuracy: float
    latency_ms: float


Slos: TypeAlias = Mapping[str, Mapping[str, float]]
"""By class: the SLO headers of its requests."""

OPTIONS: Final = {
    "strict_latency_ms": (STRICT_LATENCY, LATENCY_HEADER),
    "strict_accuracy": (STRICT_ACCURACY, ACCURACY_HEADER),
    "balanced_latency_ms": (BALANCED, LATENCY_HEADER),
    "balanced_accuracy": (BALANCED, ACCURACY_HEADER),
}
"""What can be set instead of derived, and the number that it replaces."""


def derive(probes: Mapping[str, Probe], given: Mapping[str, float | None]) -> Slos:
    """Return what each class asks for; `given` holds `OPTIONS`, None where not set."""
    latencies_ms = [probe.latency_ms for probe in probes.values()]
    fastest, slowest = min(latencies_ms), max(latencies_ms)
    accuracies = [probe.accuracy for probe in probes.values()]
    worst, best = min(accuracies), max(accuracies)
    slos = {
        STRICT_LATENCY: {LATENCY_HEADER: round(3 * fastest, 2)},
        STRICT_ACCURACY: {LATENCY_HEADER: round(10 * slowest, 2), ACCURACY_HEADER: best},
        BALANCED: {
            LATENCY_HEADER: round(5 * slowest, 2),
            ACCURACY_HEADER: round((worst + best) / 2, 6),
        },
        NONE: {},
    }
    for option, value in given.items():
        if value is not None:
            name, header = OPTIONS[option]
            slos[name][header] = value
    return slos
