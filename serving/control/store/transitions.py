"""What the builder and the reconciler report: each moves a job and its generation on.

All functions raise `IllegalTransition` if the present state does not allow the step, for example
because the job was cancelled meanwhile.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import RowMapping, insert, select, update

from serving.control.state import ENDED, STAGES, GateReport, Job, JobStage
from serving.control.store import queries
from serving.control.store.changes import (
    IllegalTransition,
    active_job,
    add_generation,
    advance,
    change_job,
    end_job,
    ensure_variant,
    enter_stage,
    move,
    record,
    state_of,
)
from serving.control.store.database import Transaction
from serving.control.store.rows import recipe_text
from serving.control.store.tables import GENERATIONS, JOB_LOG, VARIANTS
from variants.catalog.recipe import Recipe

SYSTEM: Final = "system"
LOG_LINES: Final = 10_000
"""Maximum number of lines in the log of a job; later ones are dropped."""
LINE_LENGTH: Final = 2_000
"""Maximum number of characters of a line; the rest is dropped."""


def start_job(transaction: Transaction, job_id: str) -> Job:
    """Begin a queued build: number its generation, unless a former attempt has."""
    row = _require(transaction, job_id, "queued")
    number = row["generation"]
    if number is None:
        number = add_generation(transaction, row["variant"], "building", row["recipe"])
    enter_stage(
        transaction,
        row,
        "techniques",
        0.0,
        generation=number,
        status="running",
        started_at=transaction.now,
        heartbeat_at=transaction.now,
        attempts=row["attempts"] + 1,
    )
    advance(transaction)
    return queries.job(transaction, job_id)


def report_progress(transaction: Transaction, job_id: str, stage: JobStage, share: float) -> Job:
    """Record how far the builder is; it lives. Stages never go back."""
    row = _require_builder(transaction, job_id)
    if stage not in STAGES[1 : STAGES.index("gate") + 1]:
        raise IllegalTransition(f"a builder is never in the stage {stage}")
    if STAGES.index(stage) < STAGES.index(row["stage"]):
        raise IllegalTransition(f"job {job_id} is past the stage {stage}, in {row['stage']}")
    share = min(1.0, max(0.0, share))
    enter_stage(transaction, row, stage, share, heartbeat_at=transaction.now)
    return queries.job(transaction, job_id)


def log(transaction: Transaction, job_id: str, line: str) -> None:
    """Add a line to the log of a job, also of one that is over."""
    row = queries.job_row(transaction, job_id)
    number = row["log_lines"] + 1
    if number > LOG_LINES:
        return
    if number == LOG_LINES:
        line = "(further lines are not kept)"
    transaction.connection.execute(
        insert(JOB_LOG).values(
            job=row["position"], number=number, at=transaction.now, text=line[:LINE_LENGTH]
        )
    )
    change_job(transaction, row, log_lines=number)


def built(transaction: Transaction, job_id: str, digest: str, gate: GateReport) -> Job:
    """Record that the artifact is on disk, and what the gate says: it is warmed up or rejected.

    If the job was cancelled meanwhile, it ends so; the artifact can be published by hand.
    """
    row = _require_builder(transaction, job_id)
    name, number = row["variant"], row["generation"]
    values = {"digest": digest, "gate": gate.model_dump_json()}
    if row["cancelled_by"] is not None:
        return _cancelled(transaction, row, **values)
    if gate.verdict == "pass" or row["force"]:
        move(transaction, name, number, "warming", **values)
        enter_stage(transaction, row, "warming", 0.0)
    else:
        reason = gate.describe()
        move(transaction, name, number, "rejected", error=reason, **values)
        end_job(transaction, row, "rejected", error=reason)
        record(transaction, SYSTEM, "rejected", f"{name}@{number}", reason)
    return queries.job(transaction, job_id)


def fail(transaction: Transaction, job_id: str, error: str) -> Job:
    """End a job that failed, and its generation if it is being built or warmed up.

    If the job was cancelled meanwhile, it ends so.
    """
    row = _require_active(transaction, job_id)
    name, number = row["variant"], row["generation"]
    if row["cancelled_by"] is not None:
        return _cancelled(transaction, row)
    if row["kind"] == "remove" or row["stage"] == "published":
        raise IllegalTransition(f"job {job_id} is in the stage {row['stage']}, which cannot fail")
    if number is not None:
        move(transaction, name, number, "failed", error=error)
    end_job(transaction, row, "failed", error=error)
    record(transaction, SYSTEM, "failed", name if number is None else f"{name}@{number}", error)
    return queries.job(transaction, job_id)


def requeue(transaction: Transaction, job_id: str, why: str) -> Job:
    """Put a build whose builder is lost back into the queue, in its former place.

    If the job was cancelled meanwhile, it ends so.
    """
    row = _require_builder(transaction, job_id)
    if row["cancelled_by"] is not None:
        return _cancelled(transaction, row)
    change_job(
        transaction,
        row,
        status="queued",
        stage="queued",
        stage_since=transaction.now,
        stage_seconds="{}",
        share=0.0,
        started_at=None,
        heartbeat_at=None,
    )
    advance(transaction)
    record(transaction, SYSTEM, "requeued", f"{row['variant']}@{row['generation']}", why)
    return queries.job(transaction, job_id)


def cancelled(transaction: Transaction, job_id: str) -> Job:
    """Confirm that the builder of a job that was to be cancelled has ended."""
    row = _require(transaction, job_id, "running")
    if row["cancelled_by"] is None:
        raise IllegalTransition(f"job {job_id} was not cancelled")
    return _cancelled(transaction, row)


def publish(transaction: Transaction, name: str, number: int, probe_s: float | None) -> None:
    """Make a warm generation the one that gets requests; the former one is to be drained.

    Its job ends when `routed` confirms that it gets them.
    """
    row = active_job(transaction, name)
    if row is None or row["generation"] != number:
        raise IllegalTransition(f"no job publishes {name}@{number}")
    generation = queries.generation(transaction, name, number)
    gate = generation.gate
    if gate is not None and gate.verdict != "pass" and gate.overridden_by is None:
        overridden = {"overridden_by": row["actor"], "reason": row["reason"]}
        gate = gate.model_copy(update=overridden)
    _drain_published(transaction, name)
    move(
        transaction,
        name,
        number,
        "published",
        published_at=transaction.now,
        probe_s=probe_s,
        gate=None if gate is None else gate.model_dump_json(),
        error=None,
    )
    _set_removed(transaction, name, False)
    enter_stage(transaction, row, "published", 0.0)
    record(transaction, SYSTEM, "published", f"{name}@{number}", f"job {row['id']}")


def routed(transaction: Transaction, name: str) -> None:
    """End a job that has published: gateways have followed, or are awaited no longer."""
    row = active_job(transaction, name)
    if row is None or row["stage"] != "published":
        raise IllegalTransition(f"no job has published a generation of {name}")
    end_job(transaction, row, "succeeded")


def drained(transaction: Transaction, name: str, number: int) -> None:
    """Record that the hosts of a former generation are gone; its files are kept."""
    present = state_of(transaction, name, number)
    if present != "draining":
        raise IllegalTransition(f"{name}@{number} is {present}, not draining")
    move(transaction, name, number, "kept")


def removed(transaction: Transaction, name: str) -> None:
    """Record that a variant which is being removed has no hosts any more."""
    row = active_job(transaction, name)
    if row is None or row["kind"] != "remove":
        raise IllegalTransition(f"no job removes {name}")
    draining = select(GENERATIONS.c.number).where(
        GENERATIONS.c.variant == name, GENERATIONS.c.state == "draining"
    )
    for number in transaction.connection.scalars(draining).all():
        move(transaction, name, number, "kept")
    end_job(transaction, row, "succeeded")
    record(transaction, SYSTEM, "removed", name, f"job {row['id']}")


def adopt(
    transaction: Transaction, name: str, digest: str, recipe: Recipe, actor: str, publish: bool
) -> tuple[int, bool]:
    """Return the generation with these files, and whether it was added because there was none.

    A new one is published, and the former one is to be drained; but it is only kept if `publish` is
    false or the variant was removed.
    """
    query = select(GENERATIONS.c.number).where(
        GENERATIONS.c.variant == name, GENERATIONS.c.digest == digest
    )
    known: int | None = transaction.connection.scalars(
        query.order_by(GENERATIONS.c.number.desc()).limit(1)
    ).one_or_none()
    if known is not None:
        return known, False
    ensure_variant(transaction, name)
    is_removed = transaction.connection.scalars(
        select(VARIANTS.c.is_removed).where(VARIANTS.c.name == name)
    ).one()
    serve = publish and not is_removed
    if serve:
        _drain_published(transaction, name)
    number = add_generation(
        transaction,
        name,
        "published" if serve else "kept",
        recipe_text(recipe),
        digest,
        transaction.now if serve else None,
    )
    record(transaction, actor, "adopt", f"{name}@{number}")
    return number, True


def set_error(transaction: Transaction, name: str, number: int, text: str | None) -> None:
    """Set or clear the last error of a generation."""
    transaction.connection.execute(
        update(GENERATIONS)
        .where(GENERATIONS.c.variant == name, GENERATIONS.c.number == number)
        .values(error=text)
    )


def _cancelled(transaction: Transaction, row: RowMapping, **values: object) -> Job:
    """End a build that was cancelled, and its generation with other columns set to `values`."""
    reason = f"cancelled by {row['cancelled_by']}"
    move(transaction, row["variant"], row["generation"], "failed", error=reason, **values)
    end_job(transaction, row, "cancelled", error=reason)
    return queries.job(transaction, row["id"])


def _drain_published(transaction: Transaction, name: str) -> None:
    query = select(GENERATIONS.c.number).where(
        GENERATIONS.c.variant == name, GENERATIONS.c.state == "published"
    )
    for number in transaction.connection.scalars(query).all():
        move(transaction, name, number, "draining")


def _set_removed(transaction: Transaction, name: str, is_removed: bool) -> None:
    transaction.connection.execute(
        update(VARIANTS).where(VARIANTS.c.name == name).values(is_removed=is_removed)
    )


def _require_active(transaction: Transaction, job_id: str) -> RowMapping:
    row = queries.job_row(transaction, job_id)
    if row["status"] in ENDED:
        raise IllegalTransition(f"job {job_id} is over: {row['status']}")
    return row


def _require(transaction: Transaction, job_id: str, status: str) -> RowMapping:
    row = _require_active(transaction, job_id)
    if row["kind"] != "build" or row["status"] != status:
        raise IllegalTransition(f"job {job_id} is {row['status']}, not a build that is {status}")
    return row


def _require_builder(transaction: Transaction, job_id: str) -> RowMapping:
    """Return the row of a job that a builder works on."""
    row = _require(transaction, job_id, "running")
    if STAGES.index(row["stage"]) > STAGES.index("gate"):
        raise IllegalTransition(f"job {job_id} is past its builder, in {row['stage']}")
    return row
