"""A run of Locust against a gateway that answers no request of the users."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from paretoserve.main import cli
from tests.loadtests import gateway_stub
from tests.loadtests.longer import repeat_longer
from tests.loadtests.server import ok, tiny_server

THINK_TIMES = """
import random
from types import SimpleNamespace
from loadtests.locustfile import SloUser

random.seed(0)
options = SimpleNamespace(rate=20.0)
user = SimpleNamespace(environment=SimpleNamespace(parsed_options=options))
print(*(SloUser.wait_time(user) for _ in range(1000)))
"""


@dataclass(frozen=True)
class LoadTest:
    result: Result
    classes: Mapping[str, Any]
    received: int
    """Requests of the users that the gateway has received."""


@pytest.fixture(scope="module")
def load_test(tmp_path_factory: pytest.TempPathFactory) -> LoadTest:
    """Run one load test; users without an SLO get 429, all others 500."""
    received: list[bytes] = []

    def respond(number: int, head: bytes) -> bytes:
        if not head.startswith(b"POST /v2/models/shirts/infer"):
            return gateway_stub.respond(number, head)
        received.append(head)
        if b"x-slo-" in head.lower():
            return ok(b'{"error": "inference failed"}', 500)
        return ok(b'{"error": "overloaded"}', 429)

    summary = tmp_path_factory.mktemp("load") / "summary.json"

    def run(seconds: float) -> LoadTest:
        received.clear()
        with tiny_server(respond) as port:
            options = ["--url", f"http://127.0.0.1:{port}", "--users", "16"]
            options += ["--seconds", str(math.ceil(seconds)), "--json", str(summary)]
            result = CliRunner().invoke(cli, ["load", *options])
        return LoadTest(result, json.loads(summary.read_text())["classes"], len(received))

    return repeat_longer(run, lambda test: all(each["requests"] for each in test.classes.values()))


def test_failed_requests_give_exit_status_1_and_are_counted_by_status(load_test: LoadTest) -> None:
    assert load_test.result.exit_code == 1
    assert "x 500" in load_test.result.output
    failed = {name: set(each["failed"]) for name, each in load_test.classes.items()}
    with_slo = {name: {"500"} for name in load_test.classes if name != "none"}
    assert failed == {**with_slo, "none": set()}


def test_refused_requests_are_not_failures(load_test: LoadTest) -> None:
    refused = load_test.classes["none"]["refused"]
    assert refused.keys() == {"429"}
    assert refused["429"] == load_test.classes["none"]["requests"] > 0


def test_every_request_is_in_the_summary(load_test: LoadTest) -> None:
    requests = sum(each["requests"] for each in load_test.classes.values())
    assert requests == load_test.received


def test_users_are_not_synchronized() -> None:
    """Their think times are exponentially distributed. Locust is imported in another process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", THINK_TIMES],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    think_s = np.array(printed.split(), float)
    assert think_s.mean() == pytest.approx(1 / 20, rel=0.1)
    assert think_s.std() == pytest.approx(1 / 20, rel=0.1)
    assert np.median(think_s) == pytest.approx(math.log(2) / 20, rel=0.1)
