"""The host: a Serve deployment. Each replica loads one generation of a variant and runs batches.

Serve starts, checks and restarts the replica; batches arrive over the link, not over Serve.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any, Final

import psutil
from ray import serve
from ray.serve import Application
from ray.util import get_node_ip_address

from serving.cluster import host_worker
from serving.cluster.loading import find_generation, load_runner
from serving.cluster.loopback import keep_on_loopback
from serving.cluster.low_priority import run_at_low_priority
from serving.cluster.names import (
    HEALTH_PERIOD_S,
    HEALTH_TIMEOUT_S,
    HOST,
    STOP_MARGIN_S,
    STOP_POLL_S,
)
from serving.cluster.spare import SpareKeeper
from serving.gateway.description import HostDescription
from serving.gateway.settings import Settings
from serving.link.host import HostSocket
from serving.telemetry.logs import log_as_json
from variants.catalog.device import provider
from variants.catalog.generations import digest

DRAIN_QUIET_S: Final = 2.5
"""Seconds without a batch after which a stopping host ends.

Gateways discover hosts once per second, so by then every gateway has noticed the stop.
"""


class HostReplica:
    """One replica of one generation of a variant."""

    _socket: HostSocket | None = None

    def __init__(self, settings: Settings, variant: str, generation: int) -> None:
        """Load and warm up the generation, then listen for batches.

        With `artifacts` in the settings, a generation that is missing on this node or damaged is
        restored from there. Raises `ValueError` that names the file that is missing or damaged.
        """
        log_as_json()
        keep_on_loopback()
        self._drain_s = settings.drain_s
        self._spare = SpareKeeper() if settings.hosts.spare else None
        record = find_generation(settings, variant, generation)
        self._digest = digest(record)
        if record.runner == "onnx":
            import_module("variants.runtime.onnx")  # onnxruntime starts a thread
        load = partial(load_runner, settings, variant, generation, record)
        # Compute threads would keep the low priority of the thread that loads.
        runner = run_at_low_priority(load) if settings.hosts.cpus == 1 else load()
        bind = settings.hosts.bind
        if bind == "node":
            bind = get_node_ip_address()  # type: ignore[no-untyped-call]
        self._provider = provider(record.runner, settings.hosts.device)
        self._socket = HostSocket(runner, bind)

    def describe(self) -> HostDescription:
        """Return the address for batches, what was loaded, and the memory of this process."""
        assert self._socket is not None
        return HostDescription(
            address=self._socket.address,
            pid=os.getpid(),
            resident_bytes=psutil.Process().memory_info().rss,
            gpu_memory_bytes=_gpu_memory_bytes(),
            provider=self._provider,
            digest=self._digest,
            served_for_s=self._socket.served_for_s,
        )

    def check_health(self) -> None:
        """Raise if the compute thread has ended; called by Serve."""
        if self._socket is None or not self._socket.is_alive:
            raise RuntimeError("the compute thread has ended")
        if self._spare is not None:
            self._spare.check()

    def __del__(self) -> None:
        """Run batches until the gateways send no more; called by Serve on a graceful stop."""
        if self._socket is not None:
            self._socket.drain(DRAIN_QUIET_S, self._drain_s)
            self._socket.close()


def _gpu_memory_bytes() -> int | None:
    """Return the bytes that torch has allocated on the GPU, or None if it uses no GPU.

    onnxruntime does not report the memory of its arena in Python.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.memory_allocated())


HostDeployment = serve.deployment(
    name=HOST,
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_wait_loop_s=STOP_POLL_S,
)(HostReplica)


def host_app(settings: Settings, variant: str, generation: int) -> Application:
    """Return the application of one generation of a variant."""
    cpus = settings.hosts.cpus
    runtime_env = {
        "py_executable": host_worker.command(),
        # Ray sets it too, but only after numpy has started a thread for each CPU.
        "env_vars": {"OMP_NUM_THREADS": str(cpus)},
    }
    per_node = settings.hosts.replicas_per_node
    placement: dict[str, Any] = {} if per_node is None else {"max_replicas_per_node": per_node}
    return HostDeployment.options(
        num_replicas=settings.hosts.replicas,
        **placement,
        ray_actor_options={
            "num_cpus": cpus,
            "num_gpus": settings.hosts.reserved_gpus,
            "runtime_env": runtime_env,
        },
        graceful_shutdown_timeout_s=settings.drain_s + STOP_MARGIN_S,
    ).bind(settings, variant, generation)
