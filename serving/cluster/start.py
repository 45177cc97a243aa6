"""Starts a whole service on this machine: Ray, Serve, the gateway, and hosts of every variant."""

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
"""Size of Ray's object store, in bytes: about Ray's minimum, because nothing uses the store."""

RAY_FAILED: Final = "Ray could not be started; if the machine is busy, try again"
"""Start of the message of `NotStarted` if Ray does not start."""

READY_TIMEOUT_S: Final = 300.0
"""Time limit, in seconds, for all replicas to become ready."""

POLL_S: Final = 0.05
"""Interval, in seconds, at which a starting service is checked."""


class NotStarted(Exception):
    """The service could not be started; the message has the reason and a remedy."""


def check_port_is_free(host: str, port: int, option: str) -> None:
    """Raise `NotStarted` if another process already listens on this address and port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotStarted(
                f"cannot listen on {host}:{port} ({error.strerror}): stop the process that listens "
                f"there, or choose another port with {option}"
            ) from None


@contextmanager
def local_cluster(cpus: int) -> Generator[None]:
    """Run Ray and Serve on this machine, with this number of logical CPUs, within a `with`.

    Raises `NotStarted` if Ray does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Its only warning is that the cluster is protected by a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            configure_logging=False,
        )
    except Exception as error:  # Ray raises no narrower type if its node is not up in 30 s
        raise NotStarted(f"{RAY_FAILED}: {error}") from error
    try:
        serve.start(proxy_location="Disabled")
        yield
        # The gateway first: it needs the hosts to answer the requests that it has accepted.
        if GATEWAY in serve.status().applications:
            serve.delete(GATEWAY)
    finally:
        ray.shutdown()


def cpus_needed(settings: Settings, variants: int) -> int:
    """Return the logical CPUs that all replicas reserve; the machine may have fewer."""
    return 1 + variants * settings.hosts.replicas * settings.hosts.cpus


def served_variants(settings: Settings) -> list[str]:
    """Return the names of the variants to serve; raise `ValueError` if one cannot be served."""
    catalog = Catalog.load(settings.catalog)
    return list(variant_profiles(catalog, hardware(settings.hosts.cpus).key, settings.variants))


def share_cpus(settings: Settings, cpus: int) -> Settings:
    """Return the settings with `hosts.cores` set, if it is not, for a machine of `cpus` CPUs.

    Hosts on one machine share its CPUs, because Ray is configured with more CPUs than there are.
    One CPU is left for the gateway.
    """
    hosts = settings.hosts
    if hosts.cores is not None:
        return settings
    cores = max(1, (cpus - 1) // hosts.cpus)
    return settings.model_copy(update={"hosts": hosts.model_copy(update={"cores": cores})})


def start_service(settings: Settings) -> Ports:
    """Start the gateway and the hosts in a running cluster; return the ports of the gateway.

    Raises `NotStarted` if an application fails or is not ready within `READY_TIMEOUT_S`.
    """
    settings = share_cpus(settings, len(os.sched_getaffinity(0)))
    apps = {
        app_name(variant, 1): host_app(settings, variant) for variant in served_variants(settings)
    }
    targets = [
        serve.RunTarget(app, name=name, route_prefix=None)
        for name, app in {GATEWAY: gateway_app(settings), **apps}.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    deadline = time.monotonic() + READY_TIMEOUT_S
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
            if gateway.is_ready.remote().result(timeout_s=READY_TIMEOUT_S):
                ports: Ports = gateway.ports.remote().result(timeout_s=READY_TIMEOUT_S)
                return ports
        time.sleep(POLL_S)
    raise NotStarted(f"not ready within {READY_TIMEOUT_S:.0f} s; the logs above may say why")


def _last_line(app: ApplicationStatusOverview) -> str:
    """Return the reason for a failed application: the last line of a replica's traceback."""
    for deployment in app.deployments.values():
        lines = [line for line in deployment.message.splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return app.message
