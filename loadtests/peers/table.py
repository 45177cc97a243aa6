"""The table of results."""

from __future__ import annotations

from collections.abc import Mapping

from loadtests.peers.measure import Results
from loadtests.trials.grid import Grid

MOSEC = "mosec"


def peers_grid(results: Results, unavailable: Mapping[str, str], note: str) -> Grid:
    """Return one row for each scenario and number of connections, by number of connections.

    The ratio is to the best setting of mosec at that number of connections; it is empty if mosec
    was not measured. Reasons of unavailable servers precede the note.
    """
    best: dict[int, float] = {}
    for (name, count), result in results.items():
        if name.partition("-")[0] == MOSEC:
            best[count] = max(best.get(count, 0.0), result.requests_per_s)
    rows = [
        (
            name,
            str(count),
            f"{result.requests_per_s:,.0f}",
            f"{result.p50_ms:.2f}",
            f"{result.p99_ms:.2f}",
            f"{result.requests_per_s / best[count]:.2f}" if best.get(count) else "",
            f"{result.errors:,}",
        )
        for (name, count), result in sorted(results.items(), key=lambda item: item[0][1])
    ]
    columns = ("server", "connections", "requests/s", "p50 ms", "p99 ms", "x mosec", "errors")
    reasons = [f"{name} is not available: {reason}." for name, reason in unavailable.items()]
    return Grid("Paretoserve and its peers", columns, rows, "\n\n".join([*reasons, note]))
