"""Tables of goodput curves: one curve in detail, or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.steady.curve import CAPACITY_CLIENTS, Curve, CurvePoint, Loop
from loadtests.steady.measurement import MAX_CPU_SHARE, MAX_DELAY, Measurement
from loadtests.trials.grid import Grid
from loadtests.trials.tables import NO_VALUE, format_mean

CLIENT_BOUND: Final = "*"
"""Marks the goodput of loads in which the client may have been the bottleneck."""

LEVEL_TITLES: Final[Mapping[Loop, str]] = {
    Loop.CLOSED: "clients",
    Loop.OPEN: "offered / capacity",
}


def curve_grids(curve: Curve) -> list[Grid]:
    """Return a table per policy and loop with a row per level: means over rounds."""
    return [
        _loop_grid(curve, policy, loop)
        for policy in curve.policies
        for loop in Loop
        if curve.levels(loop)
    ]


def _loop_grid(curve: Curve, policy: str, loop: Loop) -> Grid:
    rows = []
    for level in curve.levels(loop):
        tight = curve.rounds(policy, loop, level, is_loose=False)
        loose = curve.rounds(policy, loop, level, is_loose=True)
        if tight and loose:
            rows.append(
                (
                    f"{level:g}",
                    *_goodput_cells(tight, loose),
                    *_detail_cells([point.measured for point in tight]),
                )
            )
    columns = (
        LEVEL_TITLES[loop], "goodput/s", "with the loose deadline", "ratio", "of capacity",
        "offered/s",
        "refused, %", "late, %", "lost, %", "unsent, %", "p50, ms", "p99, ms",
        "client delay p99, ms", "client CPU, %",
    )  # fmt: skip
    label = f"{curve.label}: " if curve.label else ""
    title = f"{label}{policy}, {loop} loop, deadline {curve.deadline_ms:g} ms"
    note = (
        f"± 95 % of the mean over rounds. {CLIENT_BOUND} the client used more than "
        f"{100 * MAX_CPU_SHARE:g} % of a core, or was later than {100 * MAX_DELAY:g} % of the "
        f"deadline. Capacity: {CAPACITY_CLIENTS} clients with the loose deadline, in the same "
        f"round. {curve.note}"
    )
    return Grid(title, columns, rows, note)


def compared_grids(curves: Sequence[Curve]) -> list[Grid]:
    """Return a table per policy and loop with the goodput and the ratio of each curve."""
    policies = dict.fromkeys(policy for curve in curves for policy in curve.policies)
    grids = [_compared_grid(curves, policy, loop) for policy in policies for loop in Loop]
    return [grid for grid in grids if grid.rows]


def _compared_grid(curves: Sequence[Curve], policy: str, loop: Loop) -> Grid:
    rows = []
    for level in sorted({level for curve in curves for level in curve.levels(loop)}):
        cells: list[str] = []
        for curve in curves:
            tight = curve.rounds(policy, loop, level, is_loose=False)
            loose = curve.rounds(policy, loop, level, is_loose=True)
            cells += _goodput_cells(tight, loose) if tight and loose else [NO_VALUE] * 4
        if any(cell != NO_VALUE for cell in cells):
            rows.append((f"{level:g}", *cells))
    columns = [LEVEL_TITLES[loop]]
    for curve in curves:
        columns += [
            f"{curve.label}: {name}" for name in ("goodput/s", "loose", "ratio", "of capacity")
        ]
    deadlines = ", ".join(dict.fromkeys(f"{curve.deadline_ms:g} ms" for curve in curves))
    notes = " ".join(f"{curve.label}: {curve.note}" for curve in curves)
    return Grid(f"{policy}, {loop} loop, deadline {deadlines}", columns, rows, notes)


def _goodput_cells(tight: Sequence[CurvePoint], loose: Sequence[CurvePoint]) -> list[str]:
    """Return the goodput with both deadlines, their ratio by round, and that to the capacity."""
    pairs = zip(tight, loose, strict=True)
    ratios = [_ratio(ours.goodput_per_s, theirs.goodput_per_s) for ours, theirs in pairs]
    shares = [point.goodput_per_s / point.capacity_per_s for point in tight]
    return [
        _format_goodput(tight),
        _format_goodput(loose),
        format_mean(ratios, 1, 3),
        format_mean(shares, 1, 3),
    ]


def _format_goodput(points: Sequence[CurvePoint]) -> str:
    mark = CLIENT_BOUND if any(point.measured.is_client_bound for point in points) else ""
    return format_mean([point.goodput_per_s for point in points], 1, 0) + mark


def _detail_cells(measured: Sequence[Measurement]) -> Iterator[str]:
    yield f"{fmean(each.offered_per_s for each in measured):,.0f}"
    yield _format_share([(sum(each.refused.values()), each.ended) for each in measured])
    yield _format_share([(each.late, each.ended) for each in measured])
    yield _format_share([(each.lost, each.ended) for each in measured])
    yield _format_share([(each.unsent, each.ended) for each in measured])
    yield _format_known([each.p50_ms for each in measured])
    yield _format_known([each.p99_ms for each in measured])
    yield f"{fmean(each.client_delay_p99_ms for each in measured):.2f}"
    yield f"{100 * fmean(each.client_cpu_share for each in measured):.0f}"


def _format_share(counts: Sequence[tuple[int, int]]) -> str:
    whole = sum(total for _, total in counts)
    return f"{100 * sum(part for part, _ in counts) / whole:.1f}" if whole else NO_VALUE


def _format_known(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.1f}" if known else NO_VALUE


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference else None
