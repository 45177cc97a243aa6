"""The durable state of a service: one method, one transaction.

    people ─▶ submissions ─┐
    builder, reconciler ─▶ transitions, retention ─┼─▶ changes ─▶ database (SQLite or PostgreSQL)
    gateways ─▶ presence ──┘      everybody ◀── queries

Methods may be called from any thread, and block for milliseconds: never call them on an event loop.
A process that is killed leaves the state before a method or after it. Every method raises
`NotReady` if the database does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Self

from serving.control.state import (
    GateReport,
    Generation,
    HistoryEntry,
    Job,
    JobStage,
    Lineup,
    LogLine,
    ReplicaReport,
    Snapshot,
    VariantRecord,
)
from serving.control.store import (
    changes,
    presence,
    queries,
    retention,
    submissions,
    transitions,
)
from serving.control.store.database import Database
from serving.control.store.submissions import Origin
from variants.catalog.recipe import Recipe


class Store:
    """The state in a database. Close it after use, or use it as a context manager."""

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        """Open a database, which is created or brought up to date; see `Database`.

        `url` is one of SQLAlchemy: `sqlite:///catalog/.control/state.db` or
        `postgresql+psycopg://user:password@host/name`. Raises `ValueError` with what is wrong.
        """
        self._database = Database(url, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # Reading

    def revision(self) -> int:
        """Return a number that grows when gateways or the reconciler have something to do."""
        with self._database.read() as transaction:
            return queries.revision(transaction)

    def lineup(self) -> Lineup:
        """Return what all gateways should serve."""
        with self._database.read() as transaction:
            return queries.lineup(transaction)

    def snapshot(self, max_age_s: float) -> Snapshot:
        """Return all that the reconciler decides on, at one moment.

        Gateways that have not reported for `max_age_s` seconds are not live.
        """
        with self._database.read() as transaction:
            return queries.snapshot(transaction, max_age_s)

    def variants(self) -> tuple[VariantRecord, ...]:
        """Return all variants that ever had a generation, by name."""
        with self._database.read() as transaction:
            return queries.variants(transaction)

    def variant(self, name: str) -> VariantRecord:
        """Return a variant. Raises `ModelNotFound` with the names that exist."""
        with self._database.read() as transaction:
            return queries.variant(transaction, name)

    def generation(self, name: str, number: int) -> Generation:
        """Return a generation. Raises `ModelNotFound` with the numbers that exist."""
        with self._database.read() as transaction:
            return queries.generation(transaction, name, number)

    def jobs(self, *, active_only: bool = False, limit: int = 100) -> tuple[Job, ...]:
        """Return up to `limit` jobs, the newest first; with `active_only` those that are not over.

        Active jobs have an estimate of the time left, if former jobs allow one.
        """
        with self._database.read() as transaction:
            return queries.jobs(transaction, active_only, limit)

    def job(self, job_id: str) -> Job:
        """Return a job. Raises `ModelNotFound` if there is none with this id."""
        with self._database.read() as transaction:
            return queries.job(transaction, job_id)

    def job_log(self, job_id: str, after: int = 0, limit: int = 1000) -> tuple[LogLine, ...]:
        """Return up to `limit` lines of a log after line number `after`; raises like `job`."""
        with self._database.read() as transaction:
            return queries.job_log(transaction, job_id, after, limit)

    def history(self, limit: int = 100, before: int | None = None) -> tuple[HistoryEntry, ...]:
        """Return up to `limit` entries with numbers under `before`, the newest first."""
        with self._database.read() as transaction:
            return queries.history(transaction, limit, before)

    def reports(self, max_age_s: float) -> tuple[ReplicaReport, ...]:
        """Return the last reports of the gateways that have reported within `max_age_s` seconds."""
        with self._database.read() as transaction:
            return queries.reports(transaction, max_age_s)

    # Requests of users

    def submit_build(
        self,
        name: str,
        recipe: Recipe,
        actor: str,
        *,
        must_exist: bool,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        force: bool = False,
        reason: str | None = None,
    ) -> Job:
        """Queue a build that is published if the gate lets it pass, or in any case with `force`.

        With `must_exist` it replaces a variant that is served, otherwise it adds one. A request
        with the `idempotency_key` of a former one of this actor returns the job of that one.

        Raises `InvalidRequest` for a wrong name or `force` without a reason, `ModelNotFound` with
        `must_exist`, and `Conflict` if the variant is served already, or is not with `must_exist`,
        has a job in progress, or the key was used with another `body_sha256`.
        """
        origin = Origin(actor, idempotency_key, body_sha256)
        with self._database.write() as transaction:
            return submissions.build(
                transaction,
                name,
                recipe,
                origin,
                must_exist=must_exist,
                force=force,
                reason=reason,
            )

    def submit_publish(
        self,
        name: str,
        number: int,
        actor: str,
        *,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        reason: str | None = None,
    ) -> Job:
        """Begin to warm up a generation that is on disk, to publish it: also a rollback.

        Raises `InvalidRequest` if the gate did not let it pass and there is no reason,
        `ModelNotFound`, and `Conflict` if it is served, draining or deleted, or as `submit_build`.
        """
        origin = Origin(actor, idempotency_key, body_sha256)
        with self._database.write() as transaction:
            return submissions.publish(transaction, name, number, origin, reason)

    def submit_remove(
        self,
        name: str,
        actor: str,
        *,
        meeting_slo: Collection[str] = (),
        force: bool = False,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        reason: str | None = None,
    ) -> Job:
        """Begin to drain a variant; its generations stay on disk.

        Raises `ModelNotFound`, and `Conflict` if it is not served or, unless `force` is set, if it
        is the last variant, or the last one of those `meeting_slo`; or as `submit_build`.
        """
        origin = Origin(actor, idempotency_key, body_sha256)
        with self._database.write() as transaction:
            return submissions.remove(
                transaction, name, origin, meeting_slo, force=force, reason=reason
            )

    def submitted(self, origin: Origin) -> Job | None:
        """Return the job that an earlier request of this origin made; None if there is none.

        Raises `Conflict` if its key was used for another request.
        """
        with self._database.read() as transaction:
            return submissions.repeated(transaction, origin)

    def cancel(self, job_id: str, actor: str) -> Job:
        """Cancel a job; repeating it changes nothing.

        A build in progress keeps running until its builder is ended: `cancel_requested` is set, and
        `cancelled` confirms the end. Raises `ModelNotFound`, and `Conflict` if the job is over or
        removes a variant.
        """
        with self._database.write() as transaction:
            return submissions.cancel(transaction, job_id, actor)

    # What the builder and the reconciler report; all raise `IllegalTransition`

    def start_job(self, job_id: str) -> Job:
        """Begin a queued build; its generation gets a number, unless a former attempt has one."""
        with self._database.write() as transaction:
            return transitions.start_job(transaction, job_id)

    def report_progress(self, job_id: str, stage: JobStage, share: float) -> Job:
        """Record the stage of a builder, from `techniques` to `gate`, and that it lives.

        `cancel_requested` of the job that is returned says whether the builder should end.
        """
        with self._database.write() as transaction:
            return transitions.report_progress(transaction, job_id, stage, share)

    def log(self, job_id: str, line: str) -> None:
        """Add a line to the log of a job. Raises `ModelNotFound` if there is no such job."""
        with self._database.write() as transaction:
            transitions.log(transaction, job_id, line)

    def built(self, job_id: str, digest: str, gate: GateReport) -> Job:
        """Record that a build is on disk: its generation is warmed up, or rejected by the gate."""
        with self._database.write() as transaction:
            return transitions.built(transaction, job_id, digest, gate)

    def fail(self, job_id: str, error: str) -> Job:
        """End a job and its generation with an error in words."""
        with self._database.write() as transaction:
            return transitions.fail(transaction, job_id, error)

    def requeue(self, job_id: str, why: str) -> Job:
        """Queue a build again whose builder is lost. `attempts` counts how often it was started."""
        with self._database.write() as transaction:
            return transitions.requeue(transaction, job_id, why)

    def cancelled(self, job_id: str) -> Job:
        """Confirm that the builder of a job that was to be cancelled has ended."""
        with self._database.write() as transaction:
            return transitions.cancelled(transaction, job_id)

    def publish(self, name: str, number: int, probe_s: float | None = None) -> None:
        """Let a warm generation get the requests; the former one is to be drained.

        The job ends when `routed` confirms that the gateways have followed.
        `probe_s` is the median latency of its first requests through the serving path.
        """
        with self._database.write() as transaction:
            transitions.publish(transaction, name, number, probe_s)

    def routed(self, name: str) -> None:
        """End a job that has published: gateways have followed, or are awaited no longer."""
        with self._database.write() as transaction:
            transitions.routed(transaction, name)

    def drained(self, name: str, number: int) -> None:
        """Record that a former generation has no hosts any more; its files are kept."""
        with self._database.write() as transaction:
            transitions.drained(transaction, name, number)

    def removed(self, name: str) -> None:
        """Record that a variant which is being removed has no hosts any more."""
        with self._database.write() as transaction:
            transitions.removed(transaction, name)

    def delete_old(self, kept_generations: int) -> tuple[tuple[str, int], ...]:
        """Mark the oldest generations as deleted; return name and number of those still on disk.

        Each variant keeps `kept_generations` beside what is served. Confirm each with
        `files_deleted`, otherwise it is returned again.
        """
        with self._database.write() as transaction:
            return retention.delete_old(transaction, kept_generations)

    def delete_records(self, kept_jobs: int, kept_history: int) -> None:
        """Delete all but the newest jobs that are over, and entries of the history."""
        with self._database.write() as transaction:
            retention.delete_records(transaction, kept_jobs, kept_history)

    def files_deleted(self, name: str, number: int) -> None:
        """Confirm that the files of a deleted generation are gone."""
        with self._database.write() as transaction:
            retention.files_deleted(transaction, name, number)

    def set_error(self, name: str, number: int, text: str | None) -> None:
        """Set or clear the last error of a generation."""
        with self._database.write() as transaction:
            transitions.set_error(transaction, name, number, text)

    def adopt(
        self,
        name: str,
        digest: str,
        recipe: Recipe,
        actor: str = transitions.SYSTEM,
        *,
        publish: bool = True,
        before_commit: Callable[[int], None] = lambda number: None,
    ) -> int:
        """Return the number of the generation with these files; add one if there is none.

        A new one is published at once, unless `publish` is false or the variant was removed: then
        it is kept, for `submit_publish`. `before_commit` gets its number and puts its files in
        place, while all other writers wait; it is not called for one that is there already. If it
        raises, nothing is added.
        """
        with self._database.write() as transaction:
            number, is_new = transitions.adopt(transaction, name, digest, recipe, actor, publish)
            if is_new:
                before_commit(number)
            return number

    # Live gateways, leases and the history

    def report(self, gateway: str, reports: Iterable[ReplicaReport]) -> None:
        """Replace what a gateway sees of the generations; the heartbeat of the gateway."""
        with self._database.write() as transaction:
            presence.report(transaction, gateway, reports)

    def forget(self, gateway: str) -> None:
        """Delete a gateway that stops, so that nothing waits for its reports."""
        with self._database.write() as transaction:
            presence.forget(transaction, gateway)

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take a lease for `ttl_s` seconds, or renew it; return whether `holder` has it now."""
        with self._database.write() as transaction:
            return presence.acquire_lease(transaction, name, holder, ttl_s)

    def release_lease(self, name: str, holder: str) -> None:
        """Release a lease; that of another holder stays."""
        with self._database.write() as transaction:
            presence.release_lease(transaction, name, holder)

    def record(self, actor: str, action: str, subject: str, details: str = "") -> None:
        """Add an entry to the history, such as a failed login."""
        with self._database.write() as transaction:
            changes.record(transaction, actor, action, subject, details)
