"""Brings the cluster to the desired state: a loop of reading, deciding and acting.

Every gateway has a reconciler, and the one that holds the lease works. All its methods block, so it
runs on a thread. An action that fails is logged and decided again in the next round.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final

from serving.control import actions
from serving.control.cluster import Cluster, GenerationKey
from serving.control.decision import Observation, decide
from serving.control.state import Snapshot
from serving.control.store.presence import GATEWAY_LOST_S
from serving.control.store.store import Store
from variants.catalog import generations
from variants.catalog.storage import Storage

logger = logging.getLogger(__name__)

LEASE: Final = "reconciler"

LEASE_S: Final = 5.0
"""Time, in seconds, after which another gateway takes over from one that was killed."""

FIRST_RETRY_S: Final = 5.0
"""Time, in seconds, before hosts that failed are started again; doubled each time."""

CLEANING_S: Final = 600.0
"""Interval, in seconds, at which old jobs and entries of the history are deleted."""

MAX_PROBES: Final = 3
"""How often in succession the probe of a generation may fail."""

LAST_RETRY_S: Final = 300.0
"""Longest time, in seconds, before hosts that failed are started again."""


@dataclass
class _Failures:
    """How often the hosts of a generation failed to start, and when to try again."""

    count: int = 0
    retry_at: float = 0.0


class Reconciler:
    """Decides and acts for all gateways while it holds the lease."""

    def __init__(
        self,
        holder: str,
        store: Store,
        cluster: Cluster,
        probe: Callable[[str, int], float],
        catalog: Path,
        *,
        replicas: int,
        rollback_window_s: float,
        kept_generations: int,
        kept_jobs: int,
        kept_history: int,
        storage: Storage | None = None,
        excluded: frozenset[GenerationKey] = frozenset(),
        is_in_gateway: Callable[[str], bool] = lambda variant: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`holder` identifies the gateway.

        `probe` returns the latency of a warm generation in seconds. Old generations are
        deleted from `storage` too. `excluded` generations get no hosts. `is_in_gateway` returns
        whether gateways compute a variant themselves, which then has no hosts.
        """
        self._holder = holder
        self._store = store
        self._cluster = cluster
        self._probe = probe
        self._catalog = catalog
        self._replicas = replicas
        self._rollback_window_s = rollback_window_s
        self._kept_generations = kept_generations
        self._kept_jobs = kept_jobs
        self._kept_history = kept_history
        self._cleaned_at = -math.inf
        self._storage = storage
        self._deletion: Thread | None = None
        self._excluded = excluded
        self._is_in_gateway = is_in_gateway
        self._clock = clock
        self._failures: dict[GenerationKey, _Failures] = {}
        self._probes_failed = Counter[GenerationKey]()
        self._jobs: dict[GenerationKey, str] = {}
        """The running jobs of generations at the last snapshot."""
        self._lock = threading.Lock()
        self._is_released = False
        self._held_until = -math.inf
        self._now = 0.0
        """Time of the last snapshot."""

    def step(self) -> bool:
        """Do one round; return whether anything was done.

        Raises if the store or the cluster cannot be read.
        """
        if not self._hold_lease():
            return False
        builds = self._cluster.builds()  # before the state, in which the end of a build shows
        apps = self._cluster.apps()
        state = self._without_excluded(self._store.snapshot(GATEWAY_LOST_S))
        keys = {(each.variant, each.number) for name in state.variants for each in name.generations}
        well = {key for key, app in apps.items() if app.status == "running" and not app.error}
        self._failures = {
            key: each for key, each in self._failures.items() if key in keys and key not in well
        }
        seen = Observation(
            apps=apps,
            builds=builds,
            replicas=self._replicas,
            rollback_window_s=self._rollback_window_s,
            retry_at={key: each.retry_at for key, each in self._failures.items()},
            in_gateways={each.name for each in state.variants if self._is_in_gateway(each.name)},
        )
        self._now = state.at
        self._jobs = {
            (job.variant, job.generation): job.id
            for job in state.jobs
            if job.status == "running" and job.generation is not None
        }
        done = 0
        for action in decide(state, seen):
            if not self._hold_lease():
                return False
            try:
                self._act(action)
                done += 1
            except Exception:
                logger.exception("an action failed; it is decided again", extra=_log_fields(action))
        return done > 0

    def _without_excluded(self, state: Snapshot) -> Snapshot:
        published = {
            name: number
            for name, number in state.lineup.published.items()
            if (name, number) not in self._excluded
        }
        variants = tuple(
            variant.model_copy(
                update={
                    "generations": tuple(
                        each
                        for each in variant.generations
                        if (variant.name, each.number) not in self._excluded
                    )
                }
            )
            for variant in state.variants
        )
        lineup = state.lineup.model_copy(update={"published": published})
        return state.model_copy(update={"lineup": lineup, "variants": variants})

    def release(self) -> None:
        """Release the lease for good, so that another gateway takes over at once.

        May be called while `step` runs on another thread, which then begins no further action.
        """
        with self._lock:
            self._is_released = True
            self._store.release_lease(LEASE, self._holder)

    def _hold_lease(self) -> bool:
        """Renew or take the lease; return whether it is held."""
        now = self._clock()
        with self._lock:
            if self._is_released:
                return False
            if now <= self._held_until - LEASE_S / 2:
                return True
            is_new = now > self._held_until
            if not self._store.acquire_lease(LEASE, self._holder, LEASE_S):
                return False
            self._held_until = now + LEASE_S
        if is_new or now - self._cleaned_at > CLEANING_S:
            self._cleaned_at = now
            self._delete_files()
            self._store.delete_records(self._kept_jobs, self._kept_history)
        return True

    def _act(self, action: actions.Action) -> None:
        store, cluster = self._store, self._cluster
        logger.info("reconciling", extra=_log_fields(action))
        match action:
            case actions.Build(job):
                store.start_job(job.id)
                cluster.start_build(job)
                self._delete_files()  # of generations that failed or were rejected
            case actions.EndBuild(job):
                cluster.end_build(job)
            case actions.Cancelled(job):
                store.cancelled(job)
            case actions.Requeue(job, why):
                store.requeue(job, why)
            case actions.Fail(job, error):
                store.fail(job, error)
            case actions.Deploy(variant, generation):
                cluster.deploy(variant, generation)
            case actions.Delete(variant, generation, failed):
                cluster.delete(variant, generation)
                if failed:
                    self._back_off((variant, generation))
            case actions.Publish(variant, generation):
                self._publish((variant, generation))
            case actions.Routed(variant):
                store.routed(variant)
            case actions.Drained(variant, generation):
                store.drained(variant, generation)
                self._delete_files()
            case actions.Removed(variant):
                store.removed(variant)
            case actions.SetError(variant, generation, error):
                store.set_error(variant, generation, error)

    def _publish(self, key: GenerationKey) -> None:
        """Probe a generation and publish it; fail its job if it cannot be probed."""
        try:
            probe_s = self._probe(*key)
        except Exception as error:
            self._probes_failed[key] += 1
            job = self._jobs.get(key)
            if job is None or self._probes_failed[key] < MAX_PROBES:
                raise
            del self._probes_failed[key]
            self._store.fail(job, f"its hosts did not answer a test request: {error!r:.200}")
        else:
            del self._probes_failed[key]
            self._store.publish(*key, probe_s)

    def _back_off(self, key: GenerationKey) -> None:
        failures = self._failures.setdefault(key, _Failures())
        delay_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2**failures.count)
        failures.count += 1
        failures.retry_at = self._now + delay_s

    def _delete_files(self) -> None:
        """Delete the files of old generations, and of those whose deletion was interrupted."""
        for variant, number in self._store.delete_old(self._kept_generations):
            generations.delete(self._catalog, variant, number)
            self._store.files_deleted(variant, number)
        is_deleting = self._deletion is not None and self._deletion.is_alive()
        if self._storage is not None and not is_deleting:
            # On a thread, because a storage that does not answer must not stop the reconciler.
            arguments = (self._store, self._storage)
            self._deletion = Thread(target=_delete_copies, args=arguments, daemon=True)
            self._deletion.start()


def _delete_copies(store: Store, storage: Storage) -> None:
    """Delete the copies of all generations that are deleted; the next call repeats what fails."""
    try:
        storage.delete(
            {
                (each.variant, each.number)
                for variant in store.variants()
                for each in variant.generations
                if each.state == "deleted"
            }
        )
    except Exception as error:  # the storage or the store may be unreachable, or closed
        logger.warning("copies of old generations are not deleted", extra={"cause": str(error)})


def _log_fields(action: actions.Action) -> dict[str, object]:
    """Return the name of an action and its arguments."""
    fields = {field.name: getattr(action, field.name) for field in dataclasses.fields(action)}
    if isinstance(action, actions.Build):
        fields["job"] = action.job.id
    return {"action": type(action).__name__, **fields}
