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
from serving.settings import Settings
from variants.catalog import Catalog
from variants.report import render_overview
from variants.sample import sample_path


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
        check_port_is_free(settings.http.host, settings.http.port)
        with (
            console.status("starting Ray") as status,
            local_cluster(cpus_needed(settings, len(variants))),
        ):
            status.update("starting the gateway and the hosts")
            port = start_service(settings)
            status.stop()
            _say_hello(console, settings, port)
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


def _say_hello(console: Console, settings: Settings, port: int) -> None:
    catalog = Catalog.load(settings.catalog)
    host = "127.0.0.1" if settings.http.host == "0.0.0.0" else settings.http.host
    url = f"http://{host}:{port}"
    console.print(render_overview(catalog))
    console.print(f"serving [bold]{catalog.model.name}[/] on [bold]{url}[/] (Ctrl-C stops it); try")
    console.print(
        f"  curl -s {url}/v2/models/{catalog.model.name}/infer "
        f"-H 'x-slo-latency-ms: 50' -d @{sample_path(settings.catalog)}",
        soft_wrap=True,
        highlight=False,
    )
