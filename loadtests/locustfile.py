"""Locust users, one class of them per SLO class: `locust -f loadtests/locustfile.py -H URL`.

Users are a closed loop: each waits for its answer before it asks again, so a slow service is asked
less often. That shows how a service treats its classes, not where it breaks down: what it answers
at a given rate takes arrivals that do not wait.

Works for any served model: requests are made from its metadata, SLOs from probes at the start (see
`loadtests.closed_loop.classes`); an option or a variable of the environment sets a number instead.
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
    derive,
)
from loadtests.closed_loop.summary import (
    NO_ANSWER,
    OK,
    REFUSED,
    LoadReport,
    RequestResult,
    render_table,
    summarize_all,
)

logger = logging.getLogger(__name__)

REQUESTS = 64
"""Different ones, each sent over and over."""
PER_USER_PER_S = 20.0


@dataclass
class Test:
    """What a test sends, and what came back; made anew at each start."""

    service: ServiceDescription
    slos: Slos
    requests: list[binary.BinaryRequest]
    headers: dict[str, dict[str, str]]
    answers: dict[str, list[RequestResult]] = field(default_factory=lambda: defaultdict(list))
    started: float = field(default_factory=time.perf_counter)
    cpu_s: float = field(default_factory=lambda: _cpu_s())


_tests: dict[Environment, Test] = {}


class SloUser(FastHttpUser):
    """Sends requests of one SLO class, and thinks for a while after each answer."""

    abstract = True
    slo_class = ""
    network_timeout = 30.0
    connection_timeout = 5.0

    def wait_time(self) -> float:
        """Return the seconds to think before the next request, exponentially distributed.

        Not locust's constant pacing: its users all begin at once, and then ask in bursts for good.
        """
        return random.expovariate(self.environment.parsed_options.rate)

    @task
    def infer(self) -> None:
        """Ask once, and note what became of it."""
        test = _tests.get(self.environment)
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
            answer = _answer(response)
            test.answers[self.slo_class].append(answer)
            if answer.status in REFUSED:
                response.success()  # to locust, which would call it a failure


class StrictLatency(SloUser):
    """Wants it fast, however accurate."""

    slo_class = STRICT_LATENCY


class StrictAccuracy(SloUser):
    """Wants the best, and can wait a little."""

    slo_class = STRICT_ACCURACY


class Balanced(SloUser):
    """Wants it good, in good time."""

    slo_class = BALANCED


class NoSlo(SloUser):
    """Asks for nothing."""

    slo_class = NONE


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    def add(name: str, **options: Any) -> None:
        parser.add_argument(
            f"--{name}", env_var=f"LOAD_{name.upper().replace('-', '_')}", **options
        )

    add("model", default="", help="The model to ask; the service's first if not given.")
    add(
        "rate",
        type=float,
        default=PER_USER_PER_S,
        help="Of each user per second, at most.",
    )
    add(
        "seconds",
        type=float,
        default=None,
        help="End so long after the probes, which --run-time counts as well.",
    )
    add("summary-json", default="", help="Write the summary here, instead of printing a table.")
    for option in OPTIONS:
        add(option.replace("_", "-"), type=float, default=None, help="Set this, derive the others.")


def _refuse_processes(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner | WorkerRunner):
        raise SystemExit("the summary counts within one process: run without --processes, --master")


def _prepare(environment: Environment, **_: Any) -> None:
    options = cast(Any, environment.parsed_options)
    _tests.pop(environment, None)
    try:
        service = connect(str(environment.host).rstrip("/"), options.model)
        slos = derive(probe(service), {option: getattr(options, option) for option in OPTIONS})
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
    _tests[environment] = Test(service, slos, requests, headers)
    if options.seconds is not None and environment.runner is not None:
        gevent.spawn_later(options.seconds, environment.runner.quit)


def _sum_up(environment: Environment, **_: Any) -> None:
    test = _tests.pop(environment, None)
    if test is None:
        return
    elapsed_s = time.perf_counter() - test.started
    options = cast(Any, environment.parsed_options)
    report = LoadReport(
        url=test.service.url,
        model=test.service.metadata["name"],
        users=options.num_users or 0,
        elapsed_s=elapsed_s,
        generator_cpu_ratio=(_cpu_s() - test.cpu_s) / elapsed_s,
        classes=summarize_all(test.slos, test.answers),
    )
    if options.summary_json:
        Path(options.summary_json).write_text(report.model_dump_json(indent=2))
    else:
        Console().print(render_table(report))


def _answer(response: Any) -> RequestResult:
    status = response.status_code or NO_ANSWER
    latency_s = response.request_meta["response_time"] / 1e3
    if status != OK:
        return RequestResult(status, latency_s)
    try:
        why = binary.parse_explanation(
            response.content, response.headers.get(binary.JSON_LENGTH_HEADER)
        )
    except ValueError:
        return RequestResult(NO_ANSWER, latency_s)
    return RequestResult(
        status,
        latency_s,
        variant=why["variant"],
        accuracy=why["accuracy"],
        is_on_time=why["deadline_met"],
    )


def _cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


on: Any = events  # locust leaves its hooks untyped
on.init_command_line_parser.add_listener(_add_options)
on.init.add_listener(_refuse_processes)
on.test_start.add_listener(_prepare)
on.test_stop.add_listener(_sum_up)
