"""Verbs that serve, and that load what is served: up, load."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from loadtests.trials.options import FILE
from paretoserve.commands.options import CATALOG, given


@click.command()
@CATALOG
@click.option("--host", default=None, help="Address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="For HTTP. [default: 8000]"
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), default=None, help="For gRPC. [default: 9000]"
)
def up(catalog: Path | None, host: str | None, port: int | None, grpc_port: int | None) -> None:
    """Serve the variants of a catalog on this machine, until Ctrl-C."""
    from serving.gateway.settings import load_settings

    settings = load_settings(
        **given(
            catalog=catalog,
            http=given(host=host, port=port),
            grpc=given(host=host, port=grpc_port),
        )
    )

    from serving.cluster.environment import set_environment

    set_environment()
    from serving.cluster.up import serve_until_stopped

    serve_until_stopped(settings)


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--users", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--seconds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option(
    "--json",
    "json_path",
    type=FILE,
    help="Write the summary into this file, too.",
)
def load(url: str, users: int, seconds: int, json_path: Path | None) -> None:
    """Load a running service with a mix of SLO classes, and show how each fared.

    Users are a closed loop. The exit status is 1 if any request failed: one that the service
    refused for its SLO (422, 429, 504) did not.
    """
    from loadtests.closed_loop.locust_run import run_load_test

    if run_load_test(url, users, seconds, json_path=json_path).failures:
        sys.exit(1)
