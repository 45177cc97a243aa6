"""A whole service on this machine: Ray, Serve, the gateway, and a host for every variant."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import ray
from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from serving.cluster.apps import gateway_app, host_app
from serving.cluster.names import GATEWAY, app_name
from serving.gateway.description import Ports
from serving.gateway.settings import Settings
from serving.routing.profile import variant_profiles
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware

OBJECT_STORE_BYTES: Final = 80 * 2**20
"""Ray's least, nearly: nothing of ours goes through the object store."""

RAY_FAILED: Final = "Ray could not be started; if the machine is busy, try again"

READY_WITHIN_S: Final = 300.0
POLL_S: Final = 0.05


class NotStarted(Exception):
    """The service could not be started; the message says why, and what would help."""


def check_port_is_free(host: str, port: int, option: str) -> None:
    """Raise `NotStarted` if anybody listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotStarted(
                f"cannot listen on {host}:{port} ({error.strerror}): stop what listens there, "
                f"or choose another port with {option}"
            ) from None


@contextmanager
def local_cluster(cpus: int) -> Generator[None]:
    """Run Ray and Serve on this machine, with as many logical CPUs, for the time of a `with`.

    Raises `NotStarted` if Ray does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Its one warning says that the cluster is protected by a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            configure_logging=False,
        )
    except Exception as error:  # Ray raises no narrower one when its node is not up within 30 s
        raise NotStarted(f"{RAY_FAILED}: {error}") from error
    try:
        serve.start(proxy_location="Disabled")
        yield
        # The gateway first: it answers what it has accepted while the hosts still live.
        if GATEWAY in serve.status().applications:
            serve.delete(GATEWAY)
    finally:
        ray.shutdown()


def cpus_needed(settings: Settings, variants: int) -> int:
    """Return the logical CPUs that all replicas take together; the machine may have fewer."""
    return 1 + variants * settings.hosts.replicas * settings.hosts.cpus


def served_variants(settings: Settings) -> list[str]:
    """Return the names of the variants that these settings serve; raises `ValueError` if none."""
    catalog = Catalog.load(settings.catalog)
    return list(variant_profiles(catalog, hardware(settings.hosts.cpus).key, settings.variants))


def sharing_cpus(settings: Settings, cpus: int) -> Settings:
    """Return the settings with `hosts.cores`, where that is not set, for so many CPUs in all.

    Ray is told of more CPUs than there are, so what it reserves for a host is no host's own. One is
    left to the gateway.
    """
    hosts = settings.hosts
    if hosts.cores is not None:
        return settings
    cores = max(1, (cpus - 1) // hosts.cpus)
    return settings.model_copy(update={"hosts": hosts.model_copy(update={"cores": cores})})


def start_service(settings: Settings) -> Ports:
    """Start the gateway and the hosts in a running cluster; return the ports listened on.

    Raises `NotStarted` if they are not all ready in good time.
    """
    settings = sharing_cpus(settings, len(os.sched_getaffinity(0)))
    apps = {
        app_name(variant, 1): host_app(settings, variant) for variant in served_variants(settings)
    }
    targets = [
        serve.RunTarget(app, name=name, route_prefix=None)
        for name, app in {GATEWAY: gateway_app(settings), **apps}.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        status = serve.status()
        failed = [
            f"{name}: {_last_line(app)}"
            for name, app in status.applications.items()
            if app.status == "DEPLOY_FAILED"
        ]
        if failed:
            raise NotStarted("; ".join(failed))
        if status.applications[GATEWAY].status == "RUNNING":
            gateway = serve.get_app_handle(GATEWAY)
            if gateway.is_ready.remote().result(timeout_s=READY_WITHIN_S):
                ports: Ports = gateway.ports.remote().result(timeout_s=READY_WITHIN_S)
                return ports
        time.sleep(POLL_S)
    raise NotStarted(f"not ready within {READY_WITHIN_S:.0f} s; the logs above may say why")


def _last_line(app: ApplicationStatusOverview) -> str:
    """Return what matters of why an application failed: its replica's traceback ends with it."""
    for deployment in app.deployments.values():
        lines = [line for line in deployment.message.splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return app.message
