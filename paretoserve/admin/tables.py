"""Tables of variants, jobs and history for the terminal. All text is shown literally."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

_STYLES: Final = {
    "published": "green", "succeeded": "green", "routed": "green", "pass": "green",
    "failed": "red", "rejected": "red", "fail": "red",
    "deleted": "dim", "cancelled": "dim",
}  # fmt: skip

NONE: Final = "-"


def variants_table(variants: Iterable[Json]) -> RenderableType:
    """Return one row per variant."""
    columns = ("variant", "generation", "state", "accuracy", "p50 at batch 1", "replicas", "note")
    rows = []
    for variant in variants:
        card, job = variant["card"], variant["job"]
        note = variant["error"] or ""
        if job is not None:
            note = f"{job['kind']}: {job['stage']}" + (f"; {note}" if note else "")
        rows.append(
            (
                variant["name"],
                str(variant["published"] or NONE),
                variant["state"],
                f"{card['accuracy']:.2%}" if card else NONE,
                _milliseconds(card["p50_s"]) if card else NONE,
                _replicas(variant),
                note,
            )
        )
    return _table(columns, rows)


def variant_report(variant: Json) -> RenderableType:
    """Return all that is known of one variant."""
    card = variant["report_card"]
    lines = [Text(f"{variant['name']}: {variant['state']}", style="bold")]
    if variant["error"]:
        lines.append(Text(f"last error: {variant['error']}", style="red"))
    if variant["job"]:
        lines.append(Text(f"in progress: {job_line(variant['job'])}"))
    if card:
        drop = card["accuracy_difference"]
        lines.append(
            Text(
                f"accuracy {card['accuracy']['value']:.2%}, "
                f"{drop['value'] * 100:+.2f} points against dense "
                f"[{drop['low'] * 100:+.2f}, {drop['high'] * 100:+.2f}], "
                f"{card['served_bytes'] / 1e6:.2f} MB, {card['hardware']['processor']}"
            )
        )
    parts: list[RenderableType] = [*lines, _generations(variant)]
    if variant["replicas"]:
        parts.append(_reports(variant["replicas"]))
    if card:
        parts.append(_latencies(card))
    return Group(*parts)


def jobs_table(jobs: Iterable[Json]) -> RenderableType:
    """Return one row per job."""
    columns = ("job", "submitted", "kind", "variant", "by", "status", "stage", "error")
    rows = [
        (
            job["id"],
            _time(job["created_at"]),
            job["kind"],
            _subject(job),
            job["actor"],
            job["status"],
            job["stage"],
            job["error"] or "",
        )
        for job in jobs
    ]
    return _table(columns, rows)


def history_table(entries: Iterable[Json]) -> RenderableType:
    """Return one row per entry."""
    columns = ("number", "time", "by", "action", "subject", "details")
    rows = [
        (
            str(entry["number"]),
            _time(entry["at"]),
            entry["actor"],
            entry["action"],
            entry["subject"],
            entry["details"],
        )
        for entry in entries
    ]
    return _table(columns, rows)


def preview_lines(preview: Json) -> list[str]:
    """Return what a request would do."""
    steps = ", ".join(step["technique"] for step in preview["recipe"]) or "no steps"
    lines = [f"would {preview['kind']}: {steps}"]
    if preview["generation"] is not None:
        lines.append(f"generation: {preview['generation']}, on disk")
    if preview["estimate_s"] is not None:
        lines.append(f"time: about {seconds(preview['estimate_s'])}")
    if preview["estimated_memory_bytes"] is not None:
        lines.append(f"memory: about {preview['estimated_memory_bytes'] / 1e6:.0f} MB per host")
    if preview["estimated_bytes"] is not None:
        lines.append(f"size: about {preview['estimated_bytes'] / 1e6:.2f} MB")
    lines += [f"gate: {check}" for check in preview["checks"]]
    return [*lines, *(f"note: {note}" for note in preview["notes"])]


def job_line(job: Json) -> str:
    """Return a job in one line."""
    text = f"{job['kind']} of {_subject(job)}: {job['status']}"
    if job["status"] == "running":
        text += f", {job['stage']} {job['share']:.0%}"
    if job["estimate_s"] is not None and job["ended_at"] is None:
        text += f", about {seconds(job['estimate_s'])} left"
    if job["error"]:
        text += f": {job['error']}"
    return text


def seconds(value: float) -> str:
    """Return a duration in seconds or minutes."""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"


def _generations(variant: Json) -> Table:
    columns = ("generation", "state", "recipe", "gate", "probe", "published", "note")
    rows = []
    for each in variant["generations"]:
        gate = each["gate"]
        verdict = gate["verdict"] if gate else NONE
        notes = [each["error"] or ""]
        if gate:
            notes += [check["text"] for check in gate["checks"] if check["verdict"] != "pass"]
            if gate["overridden_by"]:
                notes.append(f"published by {gate['overridden_by']}: {gate['reason'] or ''}")
        rows.append(
            (
                str(each["number"]),
                each["state"],
                ", ".join(step["technique"] for step in each["recipe"]) or "none",
                verdict,
                NONE if each["probe_s"] is None else _milliseconds(each["probe_s"]),
                NONE if each["published_at"] is None else _time(each["published_at"]),
                "; ".join(filter(None, notes)),
            )
        )
    return _table(columns, rows)


def _reports(reports: Iterable[Json]) -> Table:
    columns = ("gateway", "generation", "state", "replicas", "error")
    rows = [
        (
            each["gateway"],
            str(each["generation"]),
            each["state"],
            str(each["replicas"]),
            each["error"] or "",
        )
        for each in reports
    ]
    return _table(columns, rows)


def _latencies(card: Json) -> Table:
    columns = ("batch", "p50", "p95", "p99", "speedup over dense")
    rows = [
        (
            str(each["batch_size"]),
            *(f"{each[name] * 1e3:.3g} ms" for name in ("p50_s", "p95_s", "p99_s")),
            f"{each['speedup']['value']:.2f}x",
        )
        for each in card["latencies"]
    ]
    return _table(columns, rows)


def _replicas(variant: Json) -> str:
    """Return how many replicas of the published generation the gateways see, at least."""
    seen = [
        report["replicas"]
        for report in variant["replicas"]
        if report["generation"] == variant["published"]
    ]
    return str(min(seen)) if seen else NONE


def _subject(job: Json) -> str:
    number = job["generation"]
    return str(job["variant"]) if number is None else f"{job['variant']}@{number}"


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """Return a table whose last column takes the rest of the width; only it is folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        longest = max((len(row[place]) for row in rows), default=0)
        is_last = place == len(columns) - 1
        table.add_column(column, overflow="fold", min_width=None if is_last else longest)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
