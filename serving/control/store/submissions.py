"""What people ask for: to build, publish or remove a variant, or to cancel that.

Each function answers a repeated request with the job that the first one made, and refuses what
contradicts the present state.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import insert, select, update

from serving.control.state import ENDED, Job, JobKind
from serving.control.store import queries
from serving.control.store.changes import (
    active_job,
    advance,
    change_job,
    end_job,
    ensure_variant,
    move,
    record,
)
from serving.control.store.database import Transaction
from serving.control.store.rows import recipe_text
from serving.control.store.tables import GENERATIONS, JOBS, VARIANTS
from serving.errors import Conflict, InvalidRequest, shorten
from variants.catalog.recipe import DENSE, Recipe, VariantName

JOB_ID_BYTES: Final = 6
"""Random bytes of a job's id: few, because people type and read it, and jobs are few too."""

_NAME: Final = TypeAdapter[str](VariantName)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change, and how a repetition of the request is recognized."""

    actor: str
    idempotency_key: str | None = None
    body_sha256: str | None = None
    """SHA-256 of all that the request consists of: path and body."""


def build(
    transaction: Transaction,
    name: str,
    recipe: Recipe,
    origin: Origin,
    *,
    must_exist: bool,
    force: bool,
    reason: str | None,
) -> Job:
    """Queue a job that makes a generation from a recipe and publishes it.

    With `must_exist` it replaces a variant that is served, otherwise it adds one that is not.

    Raises `InvalidRequest`, `ModelNotFound`, or `Conflict`.
    """
    if (same := repeated(transaction, origin)) is not None:
        return same
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise InvalidRequest(
            f"{shorten(name)} cannot name a variant: use up to 63 lower-case letters, digits, "
            "dots, colons and hyphens, the first a letter or a digit"
        ) from None
    if name == DENSE:
        raise InvalidRequest(f"{DENSE} is the model without compression; choose another name")
    if force and not reason:
        raise InvalidRequest("force needs a reason, for the history")
    published = _published(transaction, name)
    if must_exist and published is None:
        raise (
            queries.unknown_variant(transaction, name)
            if not queries.is_known(transaction, name)
            else Conflict(f"{name} is not served; add it instead")
        )
    if not must_exist and published is not None:
        raise Conflict(f"{name} is served already, as generation {published}; replace it")
    _require_idle(transaction, name)
    ensure_variant(transaction, name)
    job = _add_job(
        transaction, "build", name, origin, recipe=recipe_text(recipe), force=force, reason=reason
    )
    record(transaction, origin.actor, "replace" if must_exist else "add", name, f"job {job}")
    return queries.job(transaction, job)


def publish(
    transaction: Transaction, name: str, number: int, origin: Origin, reason: str | None
) -> Job:
    """Begin to warm up a generation that is on disk, to publish it.

    One that still drains keeps its hosts, unless they are being stopped already.

    Raises `InvalidRequest` if the gate did not let it pass and there is no reason, `ModelNotFound`,
    or `Conflict` if its files are gone, or if it is served or about to be.
    """
    if (same := repeated(transaction, origin)) is not None:
        return same
    generation = queries.generation(transaction, name, number)
    _require_idle(transaction, name)
    subject = f"{name}@{number}"
    if generation.state == "published":
        raise Conflict(f"{subject} is published already")
    if generation.state == "deleted" or generation.digest is None:
        raise Conflict(f"{subject} has no files on disk; build it again from its recipe")
    if generation.gate is not None and generation.gate.verdict != "pass" and not reason:
        raise InvalidRequest(f"the gate did not let {subject} pass; to publish it, give a reason")
    former = move(transaction, name, number, "warming", error=None, probe_s=None)
    job = _add_job(
        transaction,
        "publish",
        name,
        origin,
        reason=reason,
        generation=number,
        former_state=former,
        status="running",
        stage="warming",
        started_at=transaction.now,
        recipe=recipe_text(generation.recipe),
    )
    action = "publish" if generation.published_at is None else "rollback"
    record(transaction, origin.actor, action, subject, reason or f"job {job}")
    return queries.job(transaction, job)


def remove(
    transaction: Transaction,
    name: str,
    origin: Origin,
    meeting_slo: Collection[str],
    *,
    force: bool,
    reason: str | None,
) -> Job:
    """Begin to drain a variant. Its generations are kept on disk.

    Raises `ModelNotFound`, or `Conflict` if it is not served or, unless forced, if it is the last
    one, or the last one of those `meeting_slo`, which meet the default SLO.
    """
    if (same := repeated(transaction, origin)) is not None:
        return same
    published = _published(transaction, name)
    if published is None:
        if not queries.is_known(transaction, name):
            raise queries.unknown_variant(transaction, name)
        raise Conflict(f"{name} is not served")
    _require_idle(transaction, name)
    if not force:
        query = select(GENERATIONS.c.variant).where(GENERATIONS.c.state == "published")
        others = set(transaction.connection.scalars(query)) - {name}
        if not others:
            raise Conflict(f"{name} is the last variant; to remove it, force it")
        if name in meeting_slo and others.isdisjoint(meeting_slo):
            raise Conflict(
                f"{name} is the last variant that meets the default SLO of the service; add "
                "another one first, or remove it with force"
            )
    move(transaction, name, published, "draining")
    transaction.connection.execute(
        update(VARIANTS).where(VARIANTS.c.name == name).values(is_removed=True)
    )
    job = _add_job(
        transaction,
        "remove",
        name,
        origin,
        force=force,
        reason=reason,
        generation=published,
        status="running",
        stage="draining",
        started_at=transaction.now,
    )
    record(transaction, origin.actor, "remove", name, reason or f"job {job}")
    return queries.job(transaction, job)


def cancel(transaction: Transaction, job_id: str, actor: str) -> Job:
    """Cancel a job. One whose builder runs is over when `cancelled` confirms that it has ended.

    Raises `ModelNotFound`, or `Conflict` if the job is over or cannot be cancelled any more.
    """
    row = queries.job_row(transaction, job_id)
    if row["status"] == "cancelled" or row["cancelled_by"] is not None:
        return queries.job(transaction, job_id)
    if row["status"] in ENDED:
        raise Conflict(f"job {job_id} is over: {row['status']}")
    if row["kind"] == "remove":
        raise Conflict(f"{row['variant']} is being removed; publish it again instead")
    if row["stage"] == "published":
        raise Conflict(f"{row['variant']} is published already; roll it back or remove it instead")
    record(transaction, actor, "cancel", row["variant"], f"job {job_id}")
    change_job(transaction, row, cancelled_by=actor)
    advance(transaction)
    if row["stage"] == "warming":
        move(transaction, row["variant"], row["generation"], row["former_state"] or "kept")
        end_job(transaction, row, "cancelled", error=f"cancelled by {actor}")
    elif row["status"] == "queued":
        if row["generation"] is not None:
            reason = f"cancelled by {actor}"
            move(transaction, row["variant"], row["generation"], "failed", error=reason)
        end_job(transaction, row, "cancelled", error=f"cancelled by {actor}")
    return queries.job(transaction, job_id)


def repeated(transaction: Transaction, origin: Origin) -> Job | None:
    """Return the job that a request with the same key made.

    Raises `Conflict` if that request was another.
    """
    if origin.idempotency_key is None:
        return None
    query = select(JOBS.c.id, JOBS.c.body_sha256).where(
        JOBS.c.actor == origin.actor, JOBS.c.idempotency_key == origin.idempotency_key
    )
    row = transaction.connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != origin.body_sha256:
        raise Conflict(
            f"the idempotency key was used for another request, which made job {row.id}; "
            "use a new key for a new request"
        )
    return queries.job(transaction, row.id)


def _published(transaction: Transaction, name: str) -> int | None:
    query = select(GENERATIONS.c.number).where(
        GENERATIONS.c.variant == name, GENERATIONS.c.state == "published"
    )
    number: int | None = transaction.connection.scalars(query).one_or_none()
    return number


def _require_idle(transaction: Transaction, name: str) -> None:
    row = active_job(transaction, name)
    if row is not None and row["stage"] == "published":
        end_job(transaction, row, "succeeded")  # only gateways were awaited, which follow anyway
    elif row is not None:
        raise Conflict(
            f"job {row['id']} ({row['kind']}, {row['status']}) is in progress for {name}; "
            "wait until it is over, or cancel it"
        )


def _add_job(
    transaction: Transaction, kind: JobKind, name: str, origin: Origin, **values: object
) -> str:
    job_id = secrets.token_hex(JOB_ID_BYTES)
    columns: dict[str, object] = {
        "id": job_id,
        "kind": kind,
        "variant": name,
        "status": "queued",
        "stage": "queued",
        "stage_since": transaction.now,
        "stage_seconds": "{}",
        "share": 0.0,
        "actor": origin.actor,
        "created_at": transaction.now,
        "attempts": 0,
        "force": False,
        "log_lines": 0,
        "idempotency_key": origin.idempotency_key,
        "body_sha256": origin.body_sha256,
    }
    transaction.connection.execute(insert(JOBS).values(**(columns | values)))
    advance(transaction)
    return job_id
