"""A run of Locust against a gateway that answers no request of the users."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from paretoserve.main import cli
from tests.loadtests import gateway_stub
from tests.loadtests.server import ok, tiny_server

SPAN_S = 0.005


@dataclass(frozen=True)
class LoadTest:
    result: Result
    classes: Mapping[str, Any]
    arrivals_s: list[float]


@pytest.fixture(scope="module")
def load_test(tmp_path_factory: pytest.TempPathFactory) -> LoadTest:
    """Run one load test; users without an SLO get 429, all others 500."""
    arrivals_s: list[float] = []

    def respond(number: int, head: bytes) -> bytes:
        if not head.startswith(b"POST /v2/models/shirts/infer"):
            return gateway_stub.respond(number, head)
        arrivals_s.append(time.perf_counter())
        if b"x-slo-" in head.lower():
            return ok(b'{"error": "inference failed"}', 500)
        return ok(b'{"error": "overloaded"}', 429)

    summary = tmp_path_factory.mktemp("load") / "summary.json"
    with tiny_server(respond) as port:
        options = ["--url", f"http://127.0.0.1:{port}", "--users", "16", "--seconds", "1"]
        result = CliRunner().invoke(cli, ["load", *options, "--json", str(summary)])
    return LoadTest(result, json.loads(summary.read_text())["classes"], arrivals_s)


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
    assert requests == len(load_test.arrivals_s)


def test_users_are_not_synchronized(load_test: LoadTest) -> None:
    """Synchronized users with 20 requests per second each would fill one in ten spans of 5 ms."""
    first_s = load_test.arrivals_s[0]
    spans = {int((arrival_s - first_s) / SPAN_S) for arrival_s in load_test.arrivals_s}
    assert len(spans) > 0.4 * max(spans)
