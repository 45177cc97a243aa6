"""What a service shows of its variants, jobs and history.

All methods block: they read files and the database, and are called on threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.control.api.views import (
    History,
    JobLog,
    Jobs,
    VariantDetail,
    Variants,
    VariantView,
    card_generation,
    summarize,
    view,
)
from serving.control.state import Job, ReplicaReport, VariantRecord
from serving.control.store.presence import GATEWAY_LOST_S
from serving.control.store.store import Store
from variants.catalog import generations
from variants.catalog.catalog import ReportCard
from variants.catalog.recipe import DENSE


class Overview:
    """Reads the state of a service."""

    def __init__(self, store: Store, catalog: Path, hardware_key: str) -> None:
        """Report cards of the hardware `hardware_key` are shown if there are any."""
        self._store = store
        self._catalog = catalog
        self._hardware_key = hardware_key

    def variants(self) -> Variants:
        """Return all variants, dense first."""
        reports = self._store.reports(GATEWAY_LOST_S)
        jobs = {job.variant: job for job in self._store.jobs(active_only=True)}
        records = sorted(self._store.variants(), key=lambda each: (each.name != DENSE, each.name))
        return Variants(variants=tuple(self._view(record, reports, jobs) for record in records))

    def variant(self, name: str) -> VariantDetail:
        """Return one variant. Raises `ModelNotFound` with the names that exist."""
        record = self._store.variant(name)
        jobs = {job.variant: job for job in self._store.jobs(active_only=True)}
        shown = self._view(record, self._store.reports(GATEWAY_LOST_S), jobs)
        return VariantDetail(
            **{field: getattr(shown, field) for field in VariantView.model_fields},
            report_card=self._card(record),
        )

    def job(self, identifier: str) -> Job:
        """Return a job. Raises `ModelNotFound`."""
        return self._store.job(identifier)

    def jobs(self, *, active_only: bool, limit: int) -> Jobs:
        """Return jobs, newest first."""
        return Jobs(jobs=tuple(self._store.jobs(active_only=active_only, limit=limit)))

    def log(self, identifier: str, after: int) -> JobLog:
        """Return the lines of the log of a job after the line `after`. Raises `ModelNotFound`."""
        return JobLog(lines=tuple(self._store.job_log(identifier, after)))

    def history(self, *, limit: int, before: int | None) -> History:
        """Return entries of the history, newest first, those before a number."""
        return History(entries=tuple(self._store.history(limit, before)))

    def _view(
        self,
        record: VariantRecord,
        reports: tuple[ReplicaReport, ...],
        jobs: Mapping[str, Job],
    ) -> VariantView:
        card = self._card(record)
        summary = summarize(card, self._hardware_key) if card else None
        return view(record, reports, jobs.get(record.name), summary)

    def _card(self, record: VariantRecord) -> ReportCard | None:
        """Return the report card for this hardware, else the newest one; None without files."""
        number = card_generation(record)
        if number is None:
            return None
        try:
            variant = generations.load(self._catalog, record.name, number)
        except ValueError:
            return None
        cards = sorted(variant.report_cards, key=lambda card: card.measured_at)
        return variant.report_card(self._hardware_key) or (cards[-1] if cards else None)
