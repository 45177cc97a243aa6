"""Options of the verbs that try policies: the requests, the machine, and the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from loadtests.trials.options import finite
from paretoserve.commands.options import THREADS

DEFAULT_LOAD = 0.95
"""In multiples of the samples per second that dense can answer."""

_Verb = TypeVar("_Verb", bound=Callable[..., None])


def add_options(*options: Callable[[_Verb], _Verb]) -> Callable[[_Verb], _Verb]:
    """Return a decorator that adds the options to a verb, in this order."""

    def decorate(verb: _Verb) -> _Verb:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return decorate


def positive_option(name: str, **settings: object) -> Callable[[_Verb], _Verb]:
    """Return an option that takes a finite number above 0."""
    return click.option(
        name,
        type=click.FloatRange(0, min_open=True),
        callback=finite,
        **settings,  # type: ignore[arg-type]
    )


def count_option(name: str, default: int, text: str) -> Callable[[_Verb], _Verb]:
    """Return an option that takes a whole number of at least 1."""
    at_least_1 = click.IntRange(min=1)
    return click.option(name, type=at_least_1, default=default, show_default=True, help=text)


def milliseconds_option(name: str, text: str) -> Callable[[_Verb], _Verb]:
    """Return an option for a time in milliseconds, by default 0."""
    return click.option(
        name,
        type=click.FloatRange(0),
        callback=finite,
        default=0.0,
        show_default=True,
        help=text,
    )


DEMAND = (
    click.option(
        "--arrivals",
        default="gamma:cv2=4",
        show_default=True,
        help="Arrival process: uniform, poisson, gamma, bursts, acceleration, or trace:path=FILE.",
    ),
    positive_option(
        "--load",
        help=f"Offered samples, in multiples of dense's capacity. [default: {DEFAULT_LOAD}]",
    ),
    positive_option("--rate", metavar="PER_S", help="Requests per second, instead of --load."),
    positive_option("--seconds", help="Duration of the arrivals."),
    click.option(
        "--requests",
        type=click.IntRange(min=1),
        help="Approximate number of requests, instead of --seconds.",
    ),
    click.option(
        "--slo",
        "slos",
        multiple=True,
        metavar="TEXT",
        default=("dense_x=2",),
        show_default=True,
        help="A class of requests, as latency_ms=20,share=0.3,min_accuracy=0.9. Repeatable.",
    ),
)
MACHINE = (
    count_option("--cores", 1, "Batches that can run at once without slowing each other down."),
    count_option("--slots", 1, "Batches that the hosts of a variant accept at a time."),
    count_option("--gateways", 1, "Number of gateways. Each has its own queue."),
    count_option("--max-batch", 64, "Largest batch, in samples."),
    milliseconds_option(
        "--link-ms",
        "Transfer time of a batch to a host and back. The batch occupies its core meanwhile.",
    ),
    click.option(
        "--accuracy-margin",
        type=click.FloatRange(0, 1),
        callback=finite,
        default=0.0,
        show_default=True,
        help="Difference up to which variants count as equally accurate: the setting of that name.",
    ),
    THREADS,
)
CLIENTS = (
    click.option(
        "--clients",
        type=click.IntRange(min=1),
        help="Clients of a closed loop: each sends its next request after a response. Replaces "
        "--arrivals, --load, --rate and --requests.",
    ),
    milliseconds_option("--think-ms", "Pause of a closed-loop client after an answer."),
    milliseconds_option("--retry-ms", "Pause of a client after a refusal."),
    count_option("--attempts", 1, "Times that an open-loop client sends a refused request."),
)
GATEWAY = click.option(
    "--gateway",
    default="",
    metavar="COSTS",
    help="CPU time of the gateway, as request_ms=0.2,answer_ms=0.2,refusal_ms=0.2,batch_ms=0.5,"
    "turns=3, or a file of `python -m loadtests.steady.calibrate`. [default: none]",
)
MARKDOWN = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
