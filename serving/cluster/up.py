"""`paretoserve up`: runs the service in the foreground until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rich.console import Console

from serving.cluster.start import (
    NotStarted,
    choose_ports,
    local_cluster,
    start_service,
)
from serving.gateway.administration import token_file
from serving.gateway.description import Ports
from serving.gateway.settings import Settings
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware
from variants.catalog.sample_request import sample_path
from variants.report.tables import render_overview


def serve_until_stopped(settings: Settings) -> None:
    """Start the service, print how to use it, and stop it on SIGINT or SIGTERM.

    Raises `ValueError` if it cannot start; the message has a remedy.
    """
    console = Console()
    stop = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    try:
        catalog = Catalog.load(settings.catalog)
        hardware(settings.hosts.cpus, settings.hosts.device)  # raises if there is no such device
        settings = choose_ports(settings)
        with console.status("starting Ray") as status, local_cluster():
            status.update("starting the gateway and the hosts")
            ports = start_service(settings)
            status.stop()
            _print_usage(console, settings, catalog, ports)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, request_stop)
            stop.wait()
            status.update("stopping: answering the accepted requests")
            status.start()
    except NotStarted as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        pass
    console.print("stopped")


def _print_usage(console: Console, settings: Settings, catalog: Catalog, ports: Ports) -> None:
    """Print the table of variants, the addresses, and a request to try."""
    url = f"http://{_connectable(settings.http.host)}:{ports.http}"
    console.print(render_overview(catalog))
    console.print(
        f"serving [bold]{catalog.model.name}[/] on [bold]{url}[/] "
        f"and gRPC on [bold]{_connectable(settings.grpc.host)}:{ports.grpc}[/] (Ctrl-C stops it)",
        soft_wrap=True,
    )
    lines = (
        "send a request:",
        f"  curl -s {url}/v2/models/{catalog.model.name}/infer "
        f"-H 'x-slo-latency-ms: 50' -d @{sample_path(settings.catalog)}",
        "try next:",
        f"  {url}/docs    requests in a browser",
        "  make load    load with several SLO classes (in a clone of the repository)",
        f"  paretoserve variants list --url {url} --catalog {settings.catalog}    change variants "
        f"while they are served (docs/variants.md); {_token_place(settings)}",
        f"  paretoserve report {settings.catalog}    the complete report cards",
        "  docs/models.md    serve your own model",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _token_place(settings: Settings) -> str:
    if settings.control.tokens:
        return "the tokens are in the settings"
    return f"the token is in {token_file(settings.catalog)}"


def _connectable(host: str) -> str:
    """Return an address to connect to for an address to listen on."""
    return "127.0.0.1" if host == "0.0.0.0" else host
