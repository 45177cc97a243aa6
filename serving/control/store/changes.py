"""The elementary changes from which submissions and transitions are put together.

A change of what gateways or the reconciler should do calls `advance`: they poll the revision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sqlalchemy import RowMapping, insert, select, update

from serving.control.state import ENDED, GenerationState, JobStage, JobStatus
from serving.control.store.database import Transaction
from serving.control.store.tables import GENERATIONS, HISTORY, JOBS, SERVICE, VARIANTS

TRANSITIONS: Final[Mapping[GenerationState, frozenset[GenerationState]]] = {
    "building": frozenset({"warming", "rejected", "failed"}),
    "rejected": frozenset({"warming", "deleted"}),
    "warming": frozenset({"published", "failed", "kept", "rejected", "draining"}),
    "published": frozenset({"draining"}),
    "draining": frozenset({"kept", "warming"}),
    "kept": frozenset({"warming", "deleted"}),
    "failed": frozenset({"warming", "deleted"}),
    "deleted": frozenset(),
}
"""The states that may follow each state. Warming goes back to where it came from if its job is
cancelled."""


class IllegalTransition(Exception):
    """The present state does not allow the step: the caller decided on an older state."""


def advance(transaction: Transaction) -> None:
    """Increase the revision: what polls it reads the state again."""
    transaction.connection.execute(update(SERVICE).values(revision=SERVICE.c.revision + 1))


def record(
    transaction: Transaction, actor: str, action: str, subject: str, details: str = ""
) -> None:
    """Add an entry to the history."""
    transaction.connection.execute(
        insert(HISTORY).values(
            at=transaction.now, actor=actor, action=action, subject=subject, details=details
        )
    )


def move(
    transaction: Transaction, name: str, number: int, state: GenerationState, **values: object
) -> GenerationState:
    """Move a generation to another state and set other columns; return the former state.

    Raises `IllegalTransition` if it cannot get there from its present state.
    """
    here = (GENERATIONS.c.variant == name) & (GENERATIONS.c.number == number)
    present = state_of(transaction, name, number)
    if state not in TRANSITIONS[present]:
        raise IllegalTransition(f"{name}@{number} is {present} and cannot become {state}")
    transaction.connection.execute(
        update(GENERATIONS).where(here).values(state=state, since=transaction.now, **values)
    )
    advance(transaction)
    return present


def state_of(transaction: Transaction, name: str, number: int) -> GenerationState:
    """Return the state of a generation. Raises `IllegalTransition` if there is none."""
    here = (GENERATIONS.c.variant == name) & (GENERATIONS.c.number == number)
    present: GenerationState | None = transaction.connection.scalars(
        select(GENERATIONS.c.state).where(here)
    ).one_or_none()
    if present is None:
        raise IllegalTransition(f"{name} has no generation {number}")
    return present


def ensure_variant(transaction: Transaction, name: str) -> None:
    """Add a variant if the name was never used."""
    known = select(VARIANTS.c.name).where(VARIANTS.c.name == name)
    if transaction.connection.scalars(known).one_or_none() is None:
        transaction.connection.execute(
            insert(VARIANTS).values(name=name, next_number=1, is_removed=False)
        )


def add_generation(
    transaction: Transaction,
    name: str,
    state: GenerationState,
    recipe: str,
    digest: str | None = None,
    published_at: float | None = None,
) -> int:
    """Add a generation under the next number of the variant, which is never used again."""
    here = VARIANTS.c.name == name
    number: int = transaction.connection.scalars(select(VARIANTS.c.next_number).where(here)).one()
    transaction.connection.execute(update(VARIANTS).where(here).values(next_number=number + 1))
    transaction.connection.execute(
        insert(GENERATIONS).values(
            variant=name,
            number=number,
            state=state,
            recipe=recipe,
            digest=digest,
            created_at=transaction.now,
            published_at=published_at,
            has_files=True,
            since=transaction.now,
        )
    )
    advance(transaction)
    return number


def active_job(transaction: Transaction, name: str) -> RowMapping | None:
    """Return the row of the job of this variant that is not over, if any."""
    query = select(JOBS).where(JOBS.c.variant == name, JOBS.c.ended_at.is_(None))
    return transaction.connection.execute(query).mappings().one_or_none()


def change_job(transaction: Transaction, row: RowMapping, **values: object) -> None:
    """Set columns of a job."""
    transaction.connection.execute(
        update(JOBS).where(JOBS.c.position == row["position"]).values(**values)
    )


def enter_stage(
    transaction: Transaction, row: RowMapping, stage: JobStage, share: float, **values: object
) -> None:
    """Set the progress of a job; a new stage begins now, and the time of the former is kept."""
    if stage != row["stage"]:
        values |= {"stage_seconds": _stage_seconds(transaction, row)}
        values |= {"stage_since": transaction.now}
    change_job(transaction, row, stage=stage, share=share, **values)


def end_job(
    transaction: Transaction,
    row: RowMapping,
    status: JobStatus,
    stage: JobStage | None = None,
    error: str | None = None,
) -> None:
    """End a job, in its present stage unless another is given."""
    if row["status"] in ENDED:
        raise IllegalTransition(f"job {row['id']} is over: {row['status']}")
    change_job(
        transaction,
        row,
        status=status,
        stage=stage or row["stage"],
        stage_since=transaction.now,
        stage_seconds=_stage_seconds(transaction, row),
        share=1.0 if status == "succeeded" else row["share"],
        ended_at=transaction.now,
        error=error,
    )
    advance(transaction)


def _stage_seconds(transaction: Transaction, row: RowMapping) -> str:
    """Return the seconds of each stage, as JSON, with those of the present one until now."""
    seconds = json.loads(row["stage_seconds"])
    elapsed = max(0.0, transaction.now - row["stage_since"])
    return json.dumps(seconds | {row["stage"]: seconds.get(row["stage"], 0.0) + elapsed})
