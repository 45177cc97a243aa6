"""Command-line options that the benchmarks of this package share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from loadtests.simulator.compare import parse_policies
from loadtests.steady.load import DEFAULT_CONNECTIONS
from loadtests.steady.target import ClientSettings
from loadtests.trials.options import FOLDER, finite
from loadtests.workload.notation import parse_names, parse_number

Command = TypeVar("Command", bound=Callable[..., Any])

POSITIVE: Final = click.FloatRange(0, min_open=True)

catalog = click.option(
    "--catalog",
    type=FOLDER,
    default=Path("catalog"),
    show_default=True,
    help="Catalog of the service that is started.",
)
out = click.option("--out", type=FOLDER, help="Folder for results, tables and plots.")


def policies(default: str) -> Callable[[Command], Command]:
    """Return the option for the policies; `policy_names` reads it."""
    return click.option(
        "--policy",
        "policies",
        default=default,
        show_default=True,
        help="Policies, separated by commas.",
    )


def policy_names(policies: str, url: str | None) -> tuple[str, ...]:
    """Return the policies of the option; raise `UsageError` if the service at a URL has another.

    A service that runs already has one policy, which only its user knows.
    """
    names = parse_policies([policies])
    if url is not None and len(names) != 1:
        raise click.UsageError("--url requires --policy with the one policy of that service.")
    return names


def positive(name: str, default: float, text: str) -> Callable[[Command], Command]:
    """Return an option for a positive, finite number."""
    return click.option(
        name, type=POSITIVE, callback=finite, default=default, show_default=True, help=text
    )


def numbers(name: str, default: str, text: str) -> Callable[[Command], Command]:
    """Return an option for positive numbers, separated by commas; none is possible."""
    return click.option(
        name, default=default, show_default=True, callback=_parse_numbers, help=text
    )


deadline = positive("--deadline-ms", 50.0, "Deadline of the requests, in milliseconds.")


def loose_deadline(purpose: str) -> Callable[[Command], Command]:
    """Return the option for the deadline that every request meets."""
    return positive("--loose-deadline-ms", 60_000.0, f"Deadline {purpose}, in milliseconds.")


def settle(default: float) -> Callable[[Command], Command]:
    """Return the option for the time before a measurement."""
    return positive("--settle", default, "Time at the start of each load that is not measured.")


def client_options(command: Command) -> Command:
    """Add the options from which `client_settings` builds the settings of the client."""
    options = (
        click.option(
            "--connections",
            type=click.Choice(["kept", "new"]),
            default="kept",
            show_default=True,
            help="Keep connections, or open a new one for each request.",
        ),
        click.option(
            "--pool",
            type=click.IntRange(min=1),
            default=DEFAULT_CONNECTIONS,
            show_default=True,
            help="Maximum number of connections of the open loop.",
        ),
        click.option(
            "--obey-retry-after",
            is_flag=True,
            help="Let clients in the closed loop wait as long as Retry-After says.",
        ),
        click.option(
            "--real-time/--no-real-time",
            default=True,
            show_default=True,
            help="Run the client with real-time priority, if it may.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def client_settings(
    connections: str, pool: int, obey_retry_after: bool, real_time: bool
) -> ClientSettings:
    """Return the settings of the client from the values of `client_options`."""
    return ClientSettings(pool, connections == "kept", obey_retry_after, real_time)


def _parse_numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        values = [parse_number(option.name or "", each) for each in parse_names(text)]
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None
    for value in values:
        finite(context, option, value)
        if value <= 0:
            raise click.BadParameter(f"{value:g} is not positive.", context, option)
    return tuple(dict.fromkeys(values))
