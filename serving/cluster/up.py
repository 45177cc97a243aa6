"""`paretoserve up`: runs the service in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import sys
import time
from functools import partial
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape

from serving.cluster.machine import check_folder
from serving.cluster.start_failure import NotStarted
from serving.cluster.supervisor import Failed, Link, Ready, Required, supervise
from serving.control.settings import FOLDER
from serving.gateway.administration import token_file
from serving.gateway.description import Ports
from serving.gateway.settings import Settings
from serving.protocol.openapi.inference_schemas import is_json_capable
from variants.catalog.catalog import Catalog, Model
from variants.catalog.hardware import hardware
from variants.catalog.sample_request import sample_path, write_zeros
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
        choose_ports,
        local_cluster,
        required_processes,
        start_service,
    )

    console = _Terminal()
    try:
        catalog = Catalog.load(settings.catalog)
        hardware(settings.hosts.cpus, settings.hosts.device)  # raises if there is no such device
        if settings.control.database is None or not settings.control.tokens:
            check_folder(
                settings.catalog / FOLDER,
                "for the state of the service",
                "copy the catalog to a folder that is, and name that with --catalog",
            )
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
    url = f"http://{reachable(settings.http.host, ports.http)}"
    folder = shlex.quote(str(settings.catalog))
    console.print(render_overview(catalog))
    grpc = reachable(settings.grpc.host, ports.grpc)
    quoted = shlex.quote(url)
    console.print(
        f"serving [bold]{escape(catalog.model.name)}[/] on [bold]{escape(url)}[/] "
        f"and gRPC on [bold]{escape(grpc)}[/] (Ctrl-C stops it)",
        soft_wrap=True,
        highlight=False,
    )
    lines = (
        "send a request:",
        f"  {request_command(settings, catalog.model, url)}",
        "try next:",
        f"  {url}/docs    requests in a browser",
        "  make load    load with several SLO classes (in a clone of the repository)",
        f"  paretoserve variants list --url {quoted} --catalog {folder}    change variants "
        f"while they are served (docs/variants.md); {_token_place(settings)}",
        f"  paretoserve report {folder}    the complete report cards",
        "  docs/models.md    serve your own model",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _token_place(settings: Settings) -> str:
    if settings.control.tokens:
        return "the tokens are in the settings"
    return f"the token is in {token_file(settings.catalog)}"


def request_command(settings: Settings, model: Model, url: str) -> str:
    """Return a shell command that sends the example request, or says why it cannot be JSON."""
    if not is_json_capable(model.inputs):
        return "(this model's inputs can only be sent as binary tensors: docs/clients.md)"
    path = sample_path(settings.catalog)
    if not path.exists():
        try:
            write_zeros(settings.catalog, model)
        except OSError:
            return f"(in a browser: {url}/docs; {path} cannot be written)"
    name = quote(model.name, safe="")
    target = shlex.quote(f"{url}/v2/models/{name}/infer")
    globbing = " -g" if "[" in url else ""  # curl would read [::1] as a range
    return f"curl -s{globbing} {target} -H 'x-slo-latency-ms: 50' -d {shlex.quote(f'@{path}')}"


def reachable(host: str, port: int) -> str:
    """Return HOST:PORT to connect to for an address to listen on; IPv6 is in brackets."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}.get(host, host)
    if ":" in host:
        if ip_address(host.partition("%")[0]).is_unspecified:
            host = "::1"
        return f"[{host}]:{port}"
    return f"{host}:{port}"
