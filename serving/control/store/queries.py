"""What can be read of the state. Each function reads within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from sqlalchemy import RowMapping, Select, func, select

from serving.control.state import (
    ENDED,
    Generation,
    HistoryEntry,
    Job,
    Lineup,
    LogLine,
    ReplicaReport,
    Snapshot,
    VariantRecord,
)
from serving.control.store.database import Transaction
from serving.control.store.rows import (
    generation_of,
    history_of,
    job_of,
    log_line_of,
    report_of,
)
from serving.control.store.tables import (
    GATEWAYS,
    GENERATIONS,
    HISTORY,
    JOB_LOG,
    JOBS,
    REPORTS,
    SERVICE,
    VARIANTS,
)
from serving.control.time_estimate import estimate_s, typical_seconds
from serving.errors import ModelNotFound, shorten

_COMPARED_JOBS: Final = 20
"""Number of former builds that estimates are based on."""


def revision(transaction: Transaction) -> int:
    """Return the number of changes so far."""
    return int(transaction.connection.scalars(select(SERVICE.c.revision)).one())


def lineup(transaction: Transaction) -> Lineup:
    """Return what the gateways should serve."""
    columns = (GENERATIONS.c.variant, GENERATIONS.c.number)
    published, warming = (
        {
            row["variant"]: row["number"]
            for row in _rows(
                transaction,
                select(*columns).where(GENERATIONS.c.state == state).order_by(*columns),
            )
        }
        for state in ("published", "warming")
    )
    return Lineup(revision=revision(transaction), published=published, warming=warming)


def variants(transaction: Transaction) -> tuple[VariantRecord, ...]:
    """Return all variants that have a generation, by name."""
    query = select(GENERATIONS).order_by(GENERATIONS.c.variant, GENERATIONS.c.number)
    rows = _rows(transaction, query)
    return tuple(
        _variant(name, tuple(generation_of(row) for row in group))
        for name, group in groupby(rows, key=lambda row: str(row["variant"]))
    )


def variant(transaction: Transaction, name: str) -> VariantRecord:
    """Return a variant. Raises `ModelNotFound` with the names that exist."""
    query = select(GENERATIONS).where(GENERATIONS.c.variant == name).order_by(GENERATIONS.c.number)
    generations = tuple(generation_of(row) for row in _rows(transaction, query))
    if not generations:
        raise unknown_variant(transaction, name)
    return _variant(name, generations)


def unknown_variant(transaction: Transaction, name: str) -> ModelNotFound:
    """Return the error for a variant that does not exist."""
    names = transaction.connection.scalars(
        select(GENERATIONS.c.variant).distinct().order_by(GENERATIONS.c.variant)
    ).all()
    there = f"there are {', '.join(names)}" if names else "there is none yet"
    return ModelNotFound(f"no variant {shorten(name)}; {there}")


def jobs(transaction: Transaction, active_only: bool, limit: int) -> tuple[Job, ...]:
    """Return the newest jobs, the newest first."""
    query = select(JOBS).order_by(JOBS.c.position.desc()).limit(limit)
    if active_only:
        query = query.where(JOBS.c.status.not_in(sorted(ENDED)))
    return _estimated(transaction, _rows(transaction, query))


def job(transaction: Transaction, job_id: str) -> Job:
    """Return a job. Raises `ModelNotFound` if there is none with this id."""
    return _estimated(transaction, [job_row(transaction, job_id)])[0]


def job_row(transaction: Transaction, job_id: str) -> RowMapping:
    """Return the row of a job; raises like `job`."""
    rows = _rows(transaction, select(JOBS).where(JOBS.c.id == job_id))
    if not rows:
        raise ModelNotFound(f"no job {shorten(job_id)}; GET /v2/admin/jobs lists all")
    return rows[0]


def job_log(transaction: Transaction, job_id: str, after: int, limit: int) -> tuple[LogLine, ...]:
    """Return the lines of a job's log with numbers above `after`; raises like `job`."""
    position = job_row(transaction, job_id)["position"]
    query = (
        select(JOB_LOG)
        .where(JOB_LOG.c.job == position, JOB_LOG.c.number > after)
        .order_by(JOB_LOG.c.number)
        .limit(limit)
    )
    return tuple(log_line_of(row) for row in _rows(transaction, query))


def history(transaction: Transaction, limit: int, before: int | None) -> tuple[HistoryEntry, ...]:
    """Return the newest entries with numbers under `before`, the newest first."""
    query = select(HISTORY).order_by(HISTORY.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(HISTORY.c.number < before)
    return tuple(history_of(row) for row in _rows(transaction, query))


def reports(transaction: Transaction, max_age_s: float) -> tuple[ReplicaReport, ...]:
    """Return what the gateways see whose last report is at most `max_age_s` old."""
    query = (
        select(REPORTS)
        .join(GATEWAYS)
        .where(GATEWAYS.c.at >= transaction.now - max_age_s)
        .order_by(REPORTS.c.gateway, REPORTS.c.variant, REPORTS.c.generation)
    )
    return tuple(report_of(row) for row in _rows(transaction, query))


def gateways(transaction: Transaction, max_age_s: float) -> frozenset[str]:
    """Return the gateways whose last report is at most `max_age_s` old."""
    query = select(GATEWAYS.c.name).where(GATEWAYS.c.at >= transaction.now - max_age_s)
    return frozenset(transaction.connection.scalars(query))


def snapshot(transaction: Transaction, max_age_s: float) -> Snapshot:
    """Return all that the reconciler decides on; gateways older than `max_age_s` are not live."""
    active = select(JOBS).where(JOBS.c.ended_at.is_(None)).order_by(JOBS.c.position)
    return Snapshot(
        lineup=lineup(transaction),
        variants=variants(transaction),
        jobs=tuple(job_of(row) for row in _rows(transaction, active)),
        reports=reports(transaction, max_age_s),
        gateways=gateways(transaction, max_age_s),
        at=transaction.now,
    )


def generation(transaction: Transaction, name: str, number: int) -> Generation:
    """Return a generation. Raises `ModelNotFound` with the numbers that exist."""
    query = select(GENERATIONS).where(GENERATIONS.c.variant == name)
    found = {row["number"]: row for row in _rows(transaction, query)}
    if not found:
        raise unknown_variant(transaction, name)
    if number not in found:
        numbers = ", ".join(map(str, sorted(found)))
        raise ModelNotFound(f"{name} has no generation {number}; there are {numbers}")
    return generation_of(found[number])


def is_known(transaction: Transaction, name: str) -> bool:
    """Return whether the name was ever used."""
    query = select(func.count()).select_from(VARIANTS).where(VARIANTS.c.name == name)
    return transaction.connection.scalars(query).one() > 0


def _rows(transaction: Transaction, query: Select[*tuple[object, ...]]) -> Sequence[RowMapping]:
    return transaction.connection.execute(query).mappings().all()


def _variant(name: str, generations: tuple[Generation, ...]) -> VariantRecord:
    published = next((each.number for each in generations if each.state == "published"), None)
    return VariantRecord(name=name, published=published, generations=generations)


def _estimated(transaction: Transaction, rows: Sequence[RowMapping]) -> tuple[Job, ...]:
    """Return jobs; those that are not over get an estimate of the time left."""
    found = [job_of(row) for row in rows]
    if all(each.status in ENDED for each in found):
        return tuple(found)
    query = (
        select(JOBS)
        .where(JOBS.c.status == "succeeded")
        .order_by(JOBS.c.position.desc())
        .limit(_COMPARED_JOBS)
    )
    former = [job_of(row) for row in _rows(transaction, query)]
    return tuple(
        each
        if each.status in ENDED
        else each.model_copy(
            update={
                "estimate_s": estimate_s(
                    each, typical_seconds(each, former), transaction.now - row["stage_since"]
                )
            }
        )
        for row, each in zip(rows, found, strict=True)
    )
