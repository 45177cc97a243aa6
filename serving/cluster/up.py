"""`paretoserve up`: runs the service in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import Final

from rich.console import Console

from serving.cluster.supervisor import Failed, Link, Ready, Required, supervise
from serving.gateway.administration import token_file
from serving.gateway.description import Ports
from serving.gateway.settings import Settings
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware
from variants.catalog.sample_request import sample_path
from variants.report.tables import render_overview

STOP_S: Final = 30.0
"""Time, in seconds, to stop the service after its accepted requests were answered."""

CONTROLLER_S: Final = 120.0
"""Time, in seconds, after which a controller of Serve that does not answer is lost."""

POLL_S: Final = 5.0
"""Interval, in seconds, at which the controller is asked, and time limit of its answer."""


class _Terminal(Console):
    """Standard output. Its reader may end (`up | head`): the service goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def serve_until_stopped(settings: Settings) -> None:
    """Start the service, print how to use it, and stop it on SIGINT, SIGTERM or SIGHUP.

    The service runs in a child process; see `serving.cluster.supervisor`. Raises `ValueError` if it
    cannot start, with a remedy in the message, and `Supervised` if it is lost or was interrupted.
    """
    supervise(partial(_serve, settings), stop_s=settings.drain_s + STOP_S)


def _serve(settings: Settings, parent: Link) -> None:
    """Serve until the parent asks to stop."""
    # Imports Ray, which the parent must not do.
    from serving.cluster.start import (
        NotStarted,
        choose_ports,
        local_cluster,
        required_processes,
        start_service,
    )

    console = _Terminal()
    try:
        catalog = Catalog.load(settings.catalog)
        hardware(settings.hosts.cpus, settings.hosts.device)  # raises if there is no such device
        settings = choose_ports(settings)
        with console.status("starting Ray") as status, local_cluster():
            for name, pid in required_processes().items():
                parent.send(Required(name, pid))
            status.update("starting the gateway and the hosts")
            ports = start_service(settings)
            status.stop()
            parent.send(Ready())
            _print_usage(console, settings, catalog, ports)
            _wait(parent)
            status.update("stopping: answering the accepted requests")
            status.start()
    except (NotStarted, ValueError, OSError) as error:
        parent.send(Failed(str(error), 2))
        return
    except _ControllerLost as error:
        parent.send(Failed(str(error), 1))
        return
    console.print("stopped")


class _ControllerLost(Exception):
    """The controller of Serve does not come back."""


def _wait(parent: Link) -> None:
    """Return once the parent asks to stop; raise if the controller is lost.

    Ray restarts a controller that has ended. Without one the service answers requests, but no lost
    host is replaced, and no variant can be added.
    """
    from serving.cluster.serve_cluster import is_controller_alive

    answered = time.monotonic()
    while not parent.stop.wait(POLL_S):
        if is_controller_alive(POLL_S):
            answered = time.monotonic()
        elif time.monotonic() - answered > CONTROLLER_S:
            raise _ControllerLost(
                f"the controller of Ray Serve has not answered for {CONTROLLER_S:.0f} s"
            )


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
