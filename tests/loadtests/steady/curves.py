"""A small goodput curve for tests of tables, plots and files."""

from __future__ import annotations

from typing import Any

from loadtests.steady.curve import Curve, CurvePoint, Loop
from loadtests.steady.measurement import Measurement

# goodput with the deadline and with the loose one, by level and round
CLOSED = {1: ((90, 100), (100, 100)), 64: ((0, 200), (0, 160))}
OPEN = {0.5: ((100, 100), (100, 100)), 20: ((150, 200), (150, 0))}


def measurement(in_time: int, **fields: Any) -> Measurement:
    values = {
        "seconds": 1.0,
        "deadline_ms": 50.0,
        "offered": 400,
        "in_time": in_time,
        "late": 20,
        "refused": {429: 380 - in_time},
        "lost": 0,
        "unsent": 0,
        "p50_ms": 12.0,
        "p99_ms": 48.0,
        "client_delay_p99_ms": 0.2,
        "client_cpu_share": 0.3,
    }
    return Measurement(**{**values, **fields})


def curve(label: str = "", policy: str = "pareto", **fields: Any) -> Curve:
    """Return a curve of two rounds; `fields` replace those of its measurements."""
    points = [
        CurvePoint(
            policy=policy,
            round=number,
            loop=loop,
            level=level,
            is_loose=is_loose,
            capacity_per_s=200.0,
            measured=measurement(pair[is_loose], **fields),
        )
        for loop, levels in ((Loop.CLOSED, CLOSED), (Loop.OPEN, OPEN))
        for level, pairs in levels.items()
        for number, pair in enumerate(pairs)
        for is_loose in (False, True)
    ]
    return Curve(
        label=label,
        deadline_ms=50.0,
        loose_deadline_ms=60_000.0,
        note="2 rounds.",
        points=tuple(points),
    )
