"""Verbs that serve a catalog and that load a running service: up, load."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.text import Text

from loadtests.trials.options import FILE
from paretoserve.commands.options import CATALOG, set_options
from paretoserve.terminal import errors


@click.command()
@CATALOG
@click.option(
    "--project",
    type=FILE,
    default=None,
    help="Project file with which variants are built while the service runs. [default: none]",
)
@click.option("--host", default=None, help="Address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="Port of HTTP. [default: 8000]"
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), default=None, help="Port of gRPC. [default: 9000]"
)
def up(
    catalog: Path | None,
    project: Path | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
) -> None:
    """Serve the variants of a catalog on this machine until Ctrl-C.

    `paretoserve variants` changes them while they are served.
    """
    from serving.gateway.settings import load_settings

    settings = load_settings(
        **set_options(
            catalog=catalog,
            project=project,
            http=set_options(host=host, port=port),
            grpc=set_options(host=host, port=grpc_port),
        )
    )

    from serving.cluster.environment import set_environment

    set_environment()
    from serving.cluster.supervisor import Supervised
    from serving.cluster.up import serve_until_stopped

    try:
        serve_until_stopped(settings)
    except Supervised as error:
        if str(error):
            errors.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(error.status)


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The service.")
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Number of users. Each waits for its answer before it sends the next request.",
)
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Duration of the run.",
)
@click.option("--json", "json_path", type=FILE, help="Also write the summary into this file.")
def load(url: str, users: int, seconds: int, json_path: Path | None) -> None:
    """Load a running service with a mix of SLO classes.

    Print the results per class. The exit status is 1 if a request failed. A refusal because of the
    request's SLO (422, 429, 504) is not a failure.
    """
    from loadtests.closed_loop.locust_run import run_load_test

    if run_load_test(url, users, seconds, json_path=json_path).failures:
        sys.exit(1)
