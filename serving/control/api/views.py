"""What the admin API shows: variants with their state and report cards, jobs, history."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from serving.control.state import (
    Generation,
    GenerationState,
    HistoryEntry,
    Job,
    LogLine,
    ReplicaReport,
    VariantRecord,
)
from variants.catalog.catalog import Interval, ReportCard
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record


class CardSummary(Record):
    """The main figures of a report card."""

    accuracy: float
    accuracy_difference: Interval
    """Accuracy minus that of dense."""
    p50_s: float
    """Median time, in seconds, of the smallest batch that was measured, on an idle machine."""
    served_bytes: int
    resident_bytes: int
    is_of_this_hardware: bool
    """False if it was measured on another kind of machine."""


class VariantView(Record):
    """A variant: what is desired, what is there, and the last error."""

    name: VariantName
    state: GenerationState
    """State of the published generation, else of the newest one that is still there."""
    published: int | None
    """The generation that gets requests, if any."""
    generations: tuple[Generation, ...]
    """In ascending order."""
    replicas: tuple[ReplicaReport, ...]
    """What each live gateway sees of each generation."""
    card: CardSummary | None
    """Of the published generation, else of the newest one on disk."""
    job: Job | None
    """The job in progress, if any."""
    error: str | None
    """The last error in words, unless a later generation has been published since."""


class VariantDetail(VariantView):
    """A variant with the whole report card."""

    report_card: ReportCard | None


class Variants(Record):
    """All variants that the service knows."""

    variants: tuple[VariantView, ...]


class Jobs(Record):
    """Jobs, newest first."""

    jobs: tuple[Job, ...]


class JobLog(Record):
    """Lines of the log of a job, in order."""

    lines: tuple[LogLine, ...]


class History(Record):
    """Who did what, newest first."""

    entries: tuple[HistoryEntry, ...]


class Preview(Record):
    """What a request would do; nothing was changed."""

    kind: str
    """`build`: a recipe is built. `publish`: a generation on disk is published."""
    recipe: Recipe
    generation: int | None
    """The generation on disk that would be published."""
    estimate_s: float | None
    """Time until it gets requests, in seconds; None without former jobs to learn from."""
    estimated_memory_bytes: int | None
    """Resident memory of one of its hosts."""
    estimated_bytes: int | None
    """Size on disk of what a host loads."""
    checks: tuple[str, ...]
    """What the gate would check, in words."""
    notes: tuple[str, ...] = Field(default=())
    """Remarks on the recipe and on the estimates."""


def view(
    record: VariantRecord,
    reports: Sequence[ReplicaReport],
    job: Job | None,
    card: CardSummary | None,
) -> VariantView:
    """Put together what is known of one variant; `reports` are those of live gateways."""
    replicas = tuple(report for report in reports if report.variant == record.name)
    return VariantView(
        name=record.name,
        state=variant_state(record),
        published=record.published,
        generations=record.generations,
        replicas=replicas,
        card=card,
        job=job,
        error=last_error(record, replicas),
    )


def card_generation(record: VariantRecord) -> int | None:
    """Return the generation whose report card stands for the variant; None if none is on disk."""
    if record.published is not None:
        return record.published
    on_disk = ("warming", "draining", "kept", "rejected")
    return next((g.number for g in reversed(record.generations) if g.state in on_disk), None)


def summarize(card: ReportCard, hardware_key: str) -> CardSummary:
    """Return the main figures of a report card."""
    return CardSummary(
        accuracy=card.accuracy.value,
        accuracy_difference=card.accuracy_difference,
        p50_s=card.latencies[0].p50_s,
        served_bytes=card.served_bytes,
        resident_bytes=card.resident_bytes,
        is_of_this_hardware=card.hardware.key == hardware_key,
    )


def variant_state(record: VariantRecord) -> GenerationState:
    """Return the state of the published generation, else of the newest one that is left."""
    if record.published is not None:
        return "published"
    left = [each for each in record.generations if each.state != "deleted"]
    return (left or record.generations)[-1].state


def last_error(record: VariantRecord, replicas: Sequence[ReplicaReport]) -> str | None:
    """Return the last error: of hosts, of the published generation, or of the newest one."""
    found: list[str | None] = [report.error for report in replicas]
    found += [each.error for each in record.generations if each.number == record.published]
    for newest in record.generations[-1:]:
        found.append(newest.error)
        if newest.state == "rejected" and newest.gate is not None:
            found.append(newest.gate.describe())
    return next(filter(None, found), None)
