"""The builder: a detached actor that builds the generation of one job, then ends.

It outlives the gateway that started it, so that a build survives the loss of a gateway. Its name is
that of the job, so there is never a second builder of one job.
"""

from __future__ import annotations

import logging
import threading

import ray

from serving.control.building import build_job
from serving.control.startup import open_store
from serving.gateway.settings import Settings
from serving.telemetry.logs import log_as_json

logger = logging.getLogger(__name__)


class BuilderActor:
    """Builds on a thread: the actor exists, for those that look for it, as soon as it is placed."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        log_as_json()
        self._itself = ray.get_runtime_context().current_actor
        threading.Thread(target=self._run, args=(settings, job_id), daemon=True).start()

    def _run(self, settings: Settings, job_id: str) -> None:
        try:
            with open_store(settings.control, settings.catalog) as store:
                build_job(
                    store,
                    job_id,
                    project=settings.project,
                    catalog=settings.catalog,
                    artifacts=settings.artifacts,
                    builder=settings.builder,
                    gate=settings.gate,
                    threads=settings.hosts.cpus,
                    device=settings.hosts.device,
                    replicas=settings.hosts.replicas,
                )
        except Exception:  # the store does not answer, so the log is all that is left
            logger.exception("a builder ended without a result", extra={"job": job_id})
        finally:
            ray.kill(self._itself)  # a thread cannot end its actor in another way


Builder = ray.remote(BuilderActor)
