"""`paretoserve up`: the service in the foreground, from the table of variants to Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rich.console import Console

from serving.cluster.start import (
    NotStarted,
    check_port_is_free,
    cpus_needed,
    local_cluster,
    served_variants,
    start_service,
)
from serving.gateway.description import Ports
from serving.gateway.settings import Settings
from variants.catalog.catalog import Catalog
from variants.catalog.sample_request import sample_path
from variants.report.tables import render_overview


def serve_until_stopped(settings: Settings) -> None:
    """Start the service, say how to use it, and stop it on SIGINT or SIGTERM.

    Raises `ValueError` if it cannot start: the message says what would help.
    """
    console = Console()
    stop = threading.Event()

    def stop_soon(number: int, frame: FrameType | None) -> None:
        stop.set()

    try:
        variants = served_variants(settings)
        check_port_is_free(settings.http.host, settings.http.port, "--port")
        check_port_is_free(settings.grpc.host, settings.grpc.port, "--grpc-port")
        with (
            console.status("starting Ray") as status,
            local_cluster(cpus_needed(settings, len(variants))),
        ):
            status.update("starting the gateway and the hosts")
            ports = start_service(settings)
            status.stop()
            _say_hello(console, settings, ports)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop_soon)
            stop.wait()
            status.update("stopping: answering what was accepted")
            status.start()
    except NotStarted as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        pass
    console.print("stopped")


def _say_hello(console: Console, settings: Settings, ports: Ports) -> None:
    catalog = Catalog.load(settings.catalog)
    url = f"http://{_reachable(settings.http.host)}:{ports.http}"
    console.print(render_overview(catalog))
    console.print(
        f"serving [bold]{catalog.model.name}[/] on [bold]{url}[/] "
        f"and gRPC on [bold]{_reachable(settings.grpc.host)}:{ports.grpc}[/] (Ctrl-C stops it)",
        soft_wrap=True,
    )
    console.print(f"  {url}/docs in a browser, or", soft_wrap=True)
    console.print(
        f"  curl -s {url}/v2/models/{catalog.model.name}/infer "
        f"-H 'x-slo-latency-ms: 50' -d @{sample_path(settings.catalog)}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _reachable(host: str) -> str:
    """Return a host name to connect to, for one to listen on."""
    return "127.0.0.1" if host == "0.0.0.0" else host
