"""Builds the generation of one job: runs its process, judges the result, reports to the store.

    job ─▶ process that builds ─▶ gate ─▶ warming | rejected | failed

Runs in a process of its own, so that a gateway neither spends time on a build nor takes it along
when it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from serving.control.build_process import BuildCancelled, BuildFailed, run_build
from serving.control.gate import judge
from serving.control.settings import Builder, Gate
from serving.control.state import GateReport, Job
from serving.control.store.changes import IllegalTransition
from serving.control.store.store import Store
from serving.errors import NotReady
from variants.catalog import generations
from variants.catalog.build_request import BuildRequest, BuildStage
from variants.catalog.device import Device
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE
from variants.catalog.storage import Storage, load, open_storage

T = TypeVar("T")

logger = logging.getLogger(__name__)

REPORT_S: Final = 0.25
"""Shortest time, in seconds, between two reports on the same stage."""

OUTAGE_S: Final = 300.0
"""Time, in seconds, for which the result of a build waits for a store that does not answer."""

RETRY_S: Final = 1.0
"""Time, in seconds, between two attempts to store the result."""

CAUSE_CHARACTERS: Final = 500
"""Maximum number of characters of the message of an unexpected error."""


class _Reporter:
    """Passes the progress of a build to the store, and learns from it whether to go on.

    While the store does not answer, the build goes on and its lines are lost.
    """

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._stage: BuildStage | None = None
        self._at = 0.0
        self.is_cancelled = False

    def progress(self, stage: BuildStage, share: float) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._at < REPORT_S:
            return
        self._stage, self._at = stage, now
        try:
            job = self._store.report_progress(self._job_id, stage, share)
        except NotReady as error:
            logger.warning("progress was not stored", extra={"cause": str(error)})
        else:
            self.is_cancelled = job.cancel_requested

    def log(self, line: str) -> None:
        try:
            self._store.log(self._job_id, line)
        except NotReady as error:
            logger.warning("a line was not stored", extra={"line": line, "cause": str(error)})


def _call_until_answered(call: Callable[[], T]) -> T:
    """Call a method of the store again while the store does not answer, for `OUTAGE_S`."""
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return call()
        except NotReady:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def build_job(
    store: Store,
    job_id: str,
    *,
    project: Path | None,
    catalog: Path,
    artifacts: str | None = None,
    builder: Builder,
    gate: Gate,
    threads: int,
    device: Device = "cpu",
    replicas: int,
) -> None:
    """Build the generation of a job that has been started; record the result in the store.

    `threads` is the number of compute threads of a host, `device` where it computes, and `replicas`
    the number of hosts. With the URL `artifacts`, dense is restored from there if it is missing,
    and the result is copied to it for hosts on other nodes. Does nothing more if the job is over
    meanwhile, for example because it was cancelled. Raises `NotReady` if the store does not answer
    for `OUTAGE_S`.
    """
    try:
        job = store.job(job_id)
        try:
            storage = open_storage(artifacts)
            if storage is not None:
                dense = _call_until_answered(lambda: _dense_generation(store))
                storage.restore_dense(catalog, dense)
            digest = _build(store, job, project, catalog, builder, threads, device)
            _call_until_answered(lambda: store.report_progress(job_id, "gate", 0.0))
            report = _call_until_answered(
                lambda: _judge(
                    store, job, catalog, storage, gate, hardware(threads, device).key, replicas
                )
            )
            if storage is not None:
                assert job.generation is not None
                storage.upload(catalog, job.variant, job.generation)
            _call_until_answered(lambda: store.built(job_id, digest, report))
        except BuildCancelled:
            _call_until_answered(lambda: store.cancelled(job_id))
        # ValueError: what was built cannot be read or copied, or dense cannot be restored.
        except (BuildFailed, ValueError) as error:
            cause = str(error)
            _call_until_answered(lambda: store.fail(job_id, cause))
        except (IllegalTransition, NotReady):
            raise  # the job is over, or another attempt may find the store again
        except Exception as error:
            logger.exception("a build failed unexpectedly", extra={"job": job_id})
            cause = _describe(error)
            _call_until_answered(lambda: store.fail(job_id, cause))
    except IllegalTransition as error:
        logger.info("the job is over", extra={"job": job_id, "cause": str(error)})


def _describe(error: Exception) -> str:
    """Return the type and the message of an error that no code expects, in one line."""
    message = " ".join(str(error).split())[:CAUSE_CHARACTERS]
    name = type(error).__name__
    return f"an internal error of the builder: {name}{message and ': '}{message}"


def _build(
    store: Store,
    job: Job,
    project: Path | None,
    catalog: Path,
    builder: Builder,
    threads: int,
    device: Device,
) -> str:
    """Build the generation and return its digest."""
    if project is None:
        raise BuildFailed(
            "the service has no project file to build with; start it with `paretoserve up "
            "--project recipes.yaml`"
        )
    assert job.generation is not None
    assert job.recipe is not None
    request = BuildRequest(
        project=project,
        catalog=catalog,
        name=job.variant,
        number=job.generation,
        recipe=job.recipe,
        threads=threads,
        device=device,
    )
    reporter = _Reporter(store, job.id)
    return run_build(
        request,
        builder,
        on_progress=reporter.progress,
        on_log=reporter.log,
        is_cancelled=lambda: reporter.is_cancelled,
    )


def _dense_generation(store: Store) -> int:
    """Return the number of the newest generation of dense."""
    numbers = [each.number for each in store.variant(DENSE).generations if each.state != "deleted"]
    return max(numbers)


def _judge(
    store: Store,
    job: Job,
    catalog: Path,
    storage: Storage | None,
    gate: Gate,
    key: str,
    replicas: int,
) -> GateReport:
    """Return the verdict on a generation beside the other variants, all on the hardware `key`.

    Raises `ValueError` if its record cannot be read.
    """
    assert job.generation is not None
    card = generations.load(catalog, job.variant, job.generation).report_card(key)
    if card is None:
        raise ValueError(f"the generation has no report card for {key}")
    others = {}
    for name, number in store.lineup().published.items():
        if name == job.variant:
            continue
        try:
            other = load(storage, catalog, name, number).report_card(key)
        except ValueError as error:  # it is not served either
            logger.warning("not compared", extra={"variant": name, "cause": str(error)})
            continue
        if other is not None:
            others[name] = other
    return judge(card, others, gate, replicas=replicas)
