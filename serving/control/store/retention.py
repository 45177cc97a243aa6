"""Which generations stay on disk, and which jobs, logs and entries of the history are kept.

Deleting files takes two steps, since files and database do not change together: a generation
becomes `deleted`, its files are deleted, and that is confirmed. What is not confirmed is listed
again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby, islice
from typing import Final

from sqlalchemy import Column, delete, select, update

from serving.control.state import GenerationState
from serving.control.store.changes import move, record
from serving.control.store.database import Transaction
from serving.control.store.tables import GENERATIONS, HISTORY, JOB_LOG, JOBS
from serving.control.store.transitions import SYSTEM

KEPT_LOGS: Final = 200
"""Number of jobs whose log is kept."""

_CLASSES: Final[tuple[frozenset[GenerationState], ...]] = (
    frozenset({"kept"}),
    frozenset({"rejected", "failed"}),
)
"""What fails does not take the place of what can be rolled back to."""


def delete_old(transaction: Transaction, kept_generations: int) -> tuple[tuple[str, int], ...]:
    """Mark as deleted all but the newest `kept_generations` kept generations of each variant.

    As many rejected and failed ones stay beside them. Returns the name and number of each
    generation whose files are to be deleted, those of former calls that are not confirmed included.
    """
    for states in _CLASSES:
        for name, number in list(_beyond(transaction, states, kept_generations)):
            move(transaction, name, number, "deleted")
            record(transaction, SYSTEM, "deleted", f"{name}@{number}")
    query = select(GENERATIONS.c.variant, GENERATIONS.c.number).where(
        GENERATIONS.c.state == "deleted", GENERATIONS.c.has_files
    )
    rows = transaction.connection.execute(query.order_by(*query.selected_columns)).all()
    return tuple((row.variant, row.number) for row in rows)


def files_deleted(transaction: Transaction, name: str, number: int) -> None:
    """Confirm that the files of a deleted generation are gone."""
    transaction.connection.execute(
        update(GENERATIONS)
        .where(
            GENERATIONS.c.variant == name,
            GENERATIONS.c.number == number,
            GENERATIONS.c.state == "deleted",
        )
        .values(has_files=False)
    )


def _beyond(
    transaction: Transaction, states: Collection[GenerationState], kept: int
) -> Iterator[tuple[str, int]]:
    query = (
        select(GENERATIONS.c.variant, GENERATIONS.c.number)
        .where(GENERATIONS.c.state.in_(sorted(states)))
        .order_by(GENERATIONS.c.variant, GENERATIONS.c.number.desc())
    )
    rows = transaction.connection.execute(query).all()
    for _, group in groupby(rows, key=lambda row: str(row.variant)):
        yield from ((row.variant, row.number) for row in islice(group, kept, None))


def delete_records(transaction: Transaction, kept_jobs: int, kept_history: int) -> None:
    """Delete all but the newest jobs, logs of jobs and entries of the history; no active job."""
    execute = transaction.connection.execute
    outdated = (
        JOBS.c.position < _oldest(transaction, JOBS.c.position, kept_jobs)
    ) & JOBS.c.ended_at.is_not(None)
    logged = JOB_LOG.c.job < _oldest(transaction, JOBS.c.position, KEPT_LOGS)
    execute(
        delete(JOB_LOG).where(logged | JOB_LOG.c.job.in_(select(JOBS.c.position).where(outdated)))
    )
    execute(delete(JOBS).where(outdated))
    first = _oldest(transaction, HISTORY.c.number, kept_history)
    execute(delete(HISTORY).where(HISTORY.c.number < first))


def _oldest(transaction: Transaction, key: Column[int], kept: int) -> int:
    """Return the smallest of the `kept` largest values of a key; 0 if there are fewer."""
    query = select(key).order_by(key.desc()).offset(kept - 1).limit(1)
    return transaction.connection.scalars(query).one_or_none() or 0
