"""Starts a whole service on this machine: Ray, Serve, the gateway, and hosts of what is published.

The gateway and its reconciler would start the hosts too. Starting all at the same time is faster.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import ray
from ray import serve
from ray._private import services, worker
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

from serving.cluster.apps import gateway_app
from serving.cluster.environment import set_token
from serving.cluster.host_deployment import host_app
from serving.cluster.loopback import LOOPBACK
from serving.cluster.machine import prepare_machine
from serving.cluster.names import GATEWAY, app_name
from serving.cluster.ray_folder import ray_folder
from serving.cluster.serve_cluster import list_apps
from serving.cluster.start_failure import WAITING, NotStarted
from serving.control.cluster import GenerationKey
from serving.control.startup import adopt_catalog, open_store
from serving.control.store.store import Store
from serving.gateway.description import Ports
from serving.gateway.settings import Settings, absolute
from variants.catalog.cpus import available_cpus
from variants.catalog.storage import open_storage

LOGICAL_CPUS: Final = 1000
"""Number of CPUs that Ray is told to have: replicas and builders share the CPUs of the machine."""

OBJECT_STORE_BYTES: Final = 80 * 2**20
"""Size of Ray's object store, in bytes: about Ray's minimum, because nothing uses the store."""

RAY_FAILED: Final = "Ray could not be started; if the machine is busy, try again"
"""Start of the message of `NotStarted` if Ray does not start."""

READY_TIMEOUT_S: Final = 300.0
"""Time limit, in seconds, for all replicas to become ready."""

POLL_S: Final = 0.1
"""Interval, in seconds, at which a starting service is checked."""


def choose_ports(settings: Settings) -> Settings:
    """Return the settings with a free port in place of each 0.

    A gateway that replaces a killed one then listens on the same ports. Raises `NotStarted` if
    another process listens on a port.
    """
    with ExitStack() as stack:  # the two must differ
        http = _free_port(stack, settings.http.host, settings.http.port, "--port")
        grpc = _free_port(stack, settings.grpc.host, settings.grpc.port, "--grpc-port")
    return settings.model_copy(
        update={
            "http": settings.http.model_copy(update={"port": http}),
            "grpc": settings.grpc.model_copy(update={"port": grpc}),
        }
    )


def _free_port(stack: ExitStack, host: str, port: int, option: str) -> int:
    """Return the port, or a free one if it is 0, which stays bound until the end of the stack."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = stack.enter_context(socket.socket(family))
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except OSError as error:
        shown = f"[{host}]" if ":" in host else host
        raise NotStarted(
            f"cannot listen on {shown}:{port} ({error.strerror}): stop the process that listens "
            f"there, or choose another port with {option}"
        ) from None
    return int(probe.getsockname()[1])


@contextmanager
def local_cluster() -> Generator[None]:
    """Run Ray and Serve on this machine within a `with`; nothing of Ray leaves loopback.

    Raises `NotStarted` if Ray does not start, or the machine lacks what it needs.
    """
    store = prepare_machine(OBJECT_STORE_BYTES)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(ray_folder())
            _start_ray(folder, store)
        except Exception as error:  # Ray raises no narrower type if its node is not up in 30 s
            raise NotStarted(f"{RAY_FAILED}: {error}") from error
        stack.callback(ray.shutdown)
        serve.start(proxy_location="Disabled")
        yield
        # The gateway first: it needs the hosts to answer the requests that it has accepted.
        if GATEWAY in list_apps():
            serve.delete(GATEWAY)


def _start_ray(folder: Path, store: Path) -> None:
    """Start Ray on 127.0.0.1, protected by a new token, with its files in `folder`.

    `store` is the folder of its object store.
    """
    set_token()
    # Ray has read the variables if it was imported before.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    with _loopback_kept():
        ray.init(
            address="local",
            num_cpus=LOGICAL_CPUS,
            # Otherwise Ray starts a process for each CPU in advance.
            _system_config={"enable_worker_prestart": False, "prestart_worker_first_driver": False},
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _plasma_directory=str(store),
            configure_logging=False,
        )


@contextmanager
def _loopback_kept() -> Generator[None]:
    """Let Ray take 127.0.0.1 as it is. It would replace it by another address of the machine."""
    replaced = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = replaced


def required_processes() -> dict[str, int]:
    """Return the processes of Ray without which the service cannot go on, by name."""
    found = _global_node().all_processes
    names = {PROCESS_TYPE_GCS_SERVER: "the GCS of Ray", PROCESS_TYPE_RAYLET: "the raylet of Ray"}
    return {name: found[kind][0].process.pid for kind, name in names.items()}


def _global_node() -> Node:
    node = worker._global_node
    assert node is not None, "Ray has been started"
    return node


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

    Raises `NotStarted` if the gateway or all hosts fail, or if the service is not ready within
    `READY_TIMEOUT_S`; `ValueError` if the catalog, the database or the URL of the
    artifacts cannot be opened.
    """
    settings = share_cpus(absolute(settings), available_cpus())
    with open_store(settings.control, settings.catalog) as store:
        storage = open_storage(settings.artifacts)
        excluded = adopt_catalog(store, settings.catalog, settings.variants, storage=storage)
        published = set(store.lineup().published.items()) - excluded
        hosted = [key for key in sorted(published) if not settings.hosts.is_in_gateway(key[0])]
        apps = {app_name(*key): host_app(settings, *key) for key in hosted}
        targets = [
            serve.RunTarget(app, name=name, route_prefix=None)
            for name, app in {GATEWAY: gateway_app(settings), **apps}.items()
        ]
        serve.run_many(targets, wait_for_applications_running=False)
        return _wait_until_ready(store, excluded)


def _wait_until_ready(store: Store, excluded: Collection[GenerationKey]) -> Ports:
    """Wait until the gateway is ready, or runs if there is no variant to serve."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        app = list_apps()[GATEWAY]
        if app.status == "failed":
            raise NotStarted(f"{GATEWAY}: {app.error}")
        served = [
            generation
            for variant in store.variants()
            for generation in variant.generations
            if generation.state == "published"
            and (generation.variant, generation.number) not in excluded
        ]
        if served and all(each.error and each.error != WAITING for each in served):
            raise NotStarted("; ".join(f"{each.variant}: {each.error}" for each in served))
        if app.status == "running":
            gateway = serve.get_app_handle(GATEWAY)
            # Without variants it is not ready, but lets them be added.
            if not served or gateway.is_ready.remote().result(timeout_s=READY_TIMEOUT_S):
                ports: Ports = gateway.ports.remote().result(timeout_s=READY_TIMEOUT_S)
                return ports
        time.sleep(POLL_S)
    raise NotStarted(f"not ready within {READY_TIMEOUT_S:.0f} s; the logs above may say why")
