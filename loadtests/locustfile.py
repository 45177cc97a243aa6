"""Locust users, one user class per SLO class: `locust -f loadtests/locustfile.py -H URL`.

The load is a closed loop: each user waits for a response before it sends the next request, so a
slow service receives fewer requests. This compares the SLO classes; it does not find the capacity
of a service, which requires an open loop (`loadtests.replay`).

Works for any model: requests are built from its metadata, SLOs are derived from probes at the start
(`loadtests.closed_loop.classes`), or set by options or environment variables.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import gevent
import psutil
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from loadtests.client import binary
from loadtests.client.service import ServiceDescription, connect, probe
from loadtests.closed_loop.classes import (
    BALANCED,
    NONE,
    OPTIONS,
    STRICT_ACCURACY,
    STRICT_LATENCY,
    Slos,
    derive_slos,
)
from loadtests.closed_loop.summary import (
    NO_RESPONSE,
    OK,
    REFUSED,
    ClientResult,
    LoadReport,
    render_table,
    summarize_all,
)

logger = logging.getLogger(__name__)

REQUESTS = 64
"""Number of different requests, which the users send in random order."""
RATE_PER_USER_PER_S = 20.0
"""Default of `--rate`: requests per second of a user whose responses take no time."""


@dataclass
class LoadTest:
    """The requests and the results of one load test; created when the test starts."""

    service: ServiceDescription
    slos: Slos
    requests: list[binary.BinaryRequest]
    headers: dict[str, dict[str, str]]
    results: dict[str, list[ClientResult]] = field(default_factory=lambda: defaultdict(list))
    start_s: float = field(default_factory=time.perf_counter)
    cpu_s: float = field(default_factory=lambda: _cpu_s())


_load_tests: dict[Environment, LoadTest] = {}


class SloUser(FastHttpUser):
    """Sends requests of one SLO class, with a think time after each response."""

    abstract = True
    slo_class = ""
    network_timeout = 30.0
    connection_timeout = 5.0

    def wait_time(self) -> float:
        """Return an exponentially distributed think time, in seconds.

        With Locust's constant pacing all users would start together and stay synchronized.
        """
        return random.expovariate(self.environment.parsed_options.rate)

    @task
    def infer(self) -> None:
        """Send one request and record its result."""
        test = _load_tests.get(self.environment)
        if test is None:
            raise StopUser
        request = random.choice(test.requests)
        with self.client.post(
            test.service.path,
            data=cast(str, request.body),
            headers={**request.headers, **test.headers[self.slo_class]},
            name=self.slo_class,
            catch_response=True,
        ) as response:
            result = _to_result(response)
            test.results[self.slo_class].append(result)
            if result.status in REFUSED:
                response.success()  # Locust counts other statuses than 2xx and 3xx as failures


class StrictLatency(SloUser):
    """Requests with a short deadline and no accuracy floor."""

    slo_class = STRICT_LATENCY


class StrictAccuracy(SloUser):
    """Requests with the highest accuracy floor and a long deadline."""

    slo_class = STRICT_ACCURACY


class Balanced(SloUser):
    """Requests with a medium deadline and a medium accuracy floor."""

    slo_class = BALANCED


class NoSlo(SloUser):
    """Requests without an SLO."""

    slo_class = NONE


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    def add(name: str, **options: Any) -> None:
        parser.add_argument(
            f"--{name}", env_var=f"LOAD_{name.upper().replace('-', '_')}", **options
        )

    add("model", default="", help="Name of the model. [default: the first one of the service]")
    add(
        "rate",
        type=float,
        default=RATE_PER_USER_PER_S,
        help="Maximum requests per second of one user.",
    )
    add(
        "seconds",
        type=float,
        default=None,
        help="Duration after the probes; --run-time includes the probes.",
    )
    add("summary-json", default="", help="File for the summary, instead of a printed table.")
    for option in OPTIONS:
        add(
            option.replace("_", "-"),
            type=float,
            default=None,
            help="[default: derived from probes]",
        )


def _refuse_processes(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner | WorkerRunner):
        raise SystemExit(
            "the summary covers one process only: run without --processes and --master"
        )


def _prepare(environment: Environment, **_: Any) -> None:
    options = cast(Any, environment.parsed_options)
    _load_tests.pop(environment, None)
    try:
        service = connect(str(environment.host).rstrip("/"), options.model)
        slos = derive_slos(probe(service), {option: getattr(options, option) for option in OPTIONS})
    except ValueError as error:
        logger.error("%s", error)
        environment.process_exit_code = 2
        if environment.runner is not None:
            environment.runner.quit()
        return
    headers = {
        name: {header: repr(value) for header, value in slo.items()} for name, slo in slos.items()
    }
    requests = list(binary.random_requests(service.metadata, REQUESTS))
    _load_tests[environment] = LoadTest(service, slos, requests, headers)
    if options.seconds is not None and environment.runner is not None:
        gevent.spawn_later(options.seconds, environment.runner.quit)


def _report(environment: Environment, **_: Any) -> None:
    test = _load_tests.pop(environment, None)
    if test is None:
        return
    elapsed_s = time.perf_counter() - test.start_s
    options = cast(Any, environment.parsed_options)
    report = LoadReport(
        url=test.service.url,
        model=test.service.metadata["name"],
        users=options.num_users or 0,
        elapsed_s=elapsed_s,
        generator_cpu_ratio=(_cpu_s() - test.cpu_s) / elapsed_s,
        classes=summarize_all(test.slos, test.results),
    )
    if options.summary_json:
        Path(options.summary_json).write_text(report.model_dump_json(indent=2))
    else:
        Console().print(render_table(report))


def _to_result(response: Any) -> ClientResult:
    status = response.status_code or NO_RESPONSE
    latency_s = response.request_meta["response_time"] / 1e3
    if status != OK:
        return ClientResult(status, latency_s)
    try:
        explanation = binary.parse_explanation(
            response.content, response.headers.get(binary.JSON_LENGTH_HEADER)
        )
    except ValueError:
        return ClientResult(NO_RESPONSE, latency_s)
    return ClientResult(
        status,
        latency_s,
        variant=explanation["variant"],
        accuracy=explanation["accuracy"],
        is_on_time=explanation["deadline_met"],
    )


def _cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


on: Any = events  # the hooks of Locust are untyped
on.init_command_line_parser.add_listener(_add_options)
on.init.add_listener(_refuse_processes)
on.test_start.add_listener(_prepare)
on.test_stop.add_listener(_report)
