"""The SLO classes of the load test and their deadlines and accuracy floors.

Fixed values would fit only one model on one machine, so they are derived from a few probes of every
variant before the test. `fastest` and `slowest` are 90th percentiles by variant:

    class            deadline       accuracy floor           variants that qualify
    strict-latency   3 x fastest    -                        the fastest ones
    strict-accuracy  10 x slowest   best accuracy            the most accurate one
    balanced         5 x slowest    mean of worst and best   all but the least accurate ones
    none             -              -                        all
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from loadtests.client.service import Probe

STRICT_LATENCY: Final = "strict-latency"
STRICT_ACCURACY: Final = "strict-accuracy"
BALANCED: Final = "balanced"
NONE: Final = "none"
CLASSES: Final = (STRICT_LATENCY, STRICT_ACCURACY, BALANCED, NONE)

LATENCY_HEADER: Final = "x-slo-latency-ms"
ACCURACY_HEADER: Final = "x-slo-min-accuracy"


Slos: TypeAlias = Mapping[str, Mapping[str, float]]
"""The SLO headers of the requests, by class."""

OPTIONS: Final = {
    "strict_latency_ms": (STRICT_LATENCY, LATENCY_HEADER),
    "strict_accuracy": (STRICT_ACCURACY, ACCURACY_HEADER),
    "balanced_latency_ms": (BALANCED, LATENCY_HEADER),
    "balanced_accuracy": (BALANCED, ACCURACY_HEADER),
}
"""Options that replace a derived number: the class and the header of that number."""


def derive_slos(probes: Mapping[str, Probe], overrides: Mapping[str, float | None]) -> Slos:
    """Return the SLO headers of each class; `overrides` maps `OPTIONS` to values or None."""
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
    for option, value in overrides.items():
        if value is not None:
            name, header = OPTIONS[option]
            slos[name][header] = value
    return slos
