"""The cluster that Ray provides: applications of Serve for hosts, detached actors for builds.

Applications and detached actors outlive the gateway that started them, so another one finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.application_state import StatusOverview
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus
from ray.util import list_named_actors

from serving.cluster.builder import Builder
from serving.cluster.host_deployment import host_app
from serving.cluster.names import BUILDS, app_name, parse_app
from serving.cluster.start_failure import WAITING, start_failure
from serving.control.cluster import App, AppStatus, GenerationKey
from serving.control.state import Job
from serving.gateway.settings import Settings

STATUS: Final[Mapping[ApplicationStatus, AppStatus]] = {
    ApplicationStatus.DEPLOYING: "starting",
    ApplicationStatus.RUNNING: "running",
    # Serve replaces the replicas, without pauses.
    ApplicationStatus.UNHEALTHY: "running",
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "stopping",
}


class ServeCluster:
    """Starts and stops hosts and builders with these settings; see `Cluster`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def apps(self) -> Mapping[GenerationKey, App]:
        """Return the applications of hosts by generation."""
        parsed = {parse_app(name): app for name, app in list_apps().items()}
        return {generation: app for generation, app in parsed.items() if generation is not None}

    def deploy(self, variant: str, generation: int) -> None:
        """Start the application of a generation, unless it exists."""
        if (variant, generation) in self.apps():
            return  # Serve would restart its replicas
        app = host_app(self._settings, variant, generation)
        target = serve.RunTarget(app, name=app_name(variant, generation), route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)

    def delete(self, variant: str, generation: int) -> None:
        """Stop the application of a generation."""
        serve.delete(app_name(variant, generation), _blocking=False)

    def builds(self) -> Set[str]:
        """Return the identifiers of the jobs whose builder exists."""
        actors = list_named_actors(all_namespaces=True)
        return {actor["name"] for actor in actors if actor["namespace"] == BUILDS}

    def start_build(self, job: Job) -> None:
        """Start the builder of a job, unless it exists."""
        Builder.options(
            name=job.id,
            namespace=BUILDS,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=self._settings.builder.cpus,
            num_gpus=self._settings.hosts.reserved_gpus,
        ).remote(self._settings, job.id)

    def end_build(self, job_id: str) -> None:
        """Kill the builder of a job; its child process ends with it."""
        try:
            actor = ray.get_actor(job_id, BUILDS)
        except (ValueError, RayError):
            return  # it has ended
        ray.kill(actor)


def list_apps() -> dict[str, App]:
    """Return the applications that Serve knows, by name.

    Uses Serve's private client: the answer of `serve.status` has all configurations, and Python
    needs 65 ms or more to read it. A start that polled it took 17 s of CPU time for that alone.
    """
    client = _get_global_client()
    assert client is not None
    found = {}
    for overview in client.list_serve_statuses():
        status = STATUS.get(overview.app_status.status)
        if status is not None:
            found[overview.name] = _app(overview, status)
    return found


def is_controller_alive(timeout_s: float) -> bool:
    """Return whether Serve's controller answers within this time, in seconds."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return False
    try:
        ray.get(client._controller.check_alive.remote(), timeout=timeout_s)
    except RayError:  # it is being restarted, or does not answer in time
        return False
    return True


def _app(overview: StatusOverview, status: AppStatus) -> App:
    error = None if status == "stopping" else _error(overview)
    is_unhealthy = overview.app_status.status == ApplicationStatus.UNHEALTHY
    if is_unhealthy and error not in (None, WAITING):
        status = "failing"
    return App(status, error)


def _error(overview: StatusOverview) -> str | None:
    """Return why an application does not run, in words."""
    error = start_failure([each.message for each in overview.deployment_statuses])
    if error is None and overview.app_status.status == ApplicationStatus.DEPLOY_FAILED:
        return overview.app_status.message or None
    return error
