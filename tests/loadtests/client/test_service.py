"""Finding a service and its model, and what is said where that fails."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtests.client.service import connect, probe
from loadtests.closed_loop.locust_run import run_load_test
from paretoserve.main import cli
from tests.loadtests.server import free_port, ok, tiny_server

METADATA = {
    "name": "shirts",
    "versions": ["dense", "int8"],
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
}
ACCURACIES = {"dense": 0.9, "int8": 0.85}


def gateway(number: int, head: bytes) -> bytes:
    """Answer as a gateway would whose int8 is four times as fast."""
    path = head.split()[1].decode()
    if path == "/v2/health/ready":
        return ok(b'{"ready": true}')
    if path == "/v2/models":
        return ok(b'{"models": ["shirts"]}')
    if path == "/v2/models/shirts":
        return ok(json.dumps(METADATA).encode())
    if path.startswith("/v2/models/shirts/versions/"):
        variant = path.split("/")[5]
        why = {"accuracy": ACCURACIES[variant], "latency_ms": 4 if variant == "dense" else 1}
        return ok(json.dumps({"model_version": variant, "parameters": why}).encode())
    return ok(b'{"error": "there is no such model"}', 404)


def test_a_service_tells_its_metadata() -> None:
    with tiny_server(gateway) as port:
        service = connect(f"http://127.0.0.1:{port}")
    assert service.metadata == METADATA
    assert service.path == "/v2/models/shirts/infer"


def test_a_probe_finds_accuracy_and_latency_of_every_variant() -> None:
    with tiny_server(gateway) as port:
        probes = probe(connect(f"http://127.0.0.1:{port}"), rounds=3)
    assert {name: (p.accuracy, p.latency_ms) for name, p in probes.items()} == {
        "dense": (0.9, 4.0),
        "int8": (0.85, 1.0),
    }


def test_what_is_wrong_is_said_in_one_line_with_what_would_help() -> None:
    port = free_port()
    with pytest.raises(ValueError, match=rf"nothing answers at http://127.0.0.1:{port}: .*--url"):
        run_load_test(f"http://127.0.0.1:{port}/", 1, 1)
    with (
        tiny_server(lambda number, head: ok(b'{"ready": false}', 503)) as port,
        pytest.raises(ValueError, match="not ready yet"),
    ):
        run_load_test(f"http://127.0.0.1:{port}", 1, 1)
    with (
        tiny_server(lambda number, head: ok(b"", 404)) as port,
        pytest.raises(ValueError, match="not Paretoserve"),
    ):
        run_load_test(f"http://127.0.0.1:{port}", 1, 1)
    with tiny_server(gateway) as port, pytest.raises(ValueError, match="no model 'other'"):
        connect(f"http://127.0.0.1:{port}", "other")


@pytest.mark.parametrize("url", ["http://", "127.0.0.1:1", "file:///etc/hostname", "nonsense"])
def test_what_is_no_url_of_http_is_said_so(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        run_load_test(url, 1, 1)


def test_a_service_that_stops_answering_fails_the_load_with_status_1(tmp_path: Path) -> None:
    """Every answer that this gateway gives to the users, not to the probes, is a 500."""

    def answer(number: int, head: bytes) -> bytes:
        if head.startswith(b"POST /v2/models/shirts/infer"):
            return ok(b'{"error": "it broke"}', 500)
        return gateway(number, head)

    summary = tmp_path / "summary.json"
    with tiny_server(answer) as port:
        options = ["--url", f"http://127.0.0.1:{port}", "--users", "4", "--seconds", "1"]
        result = CliRunner().invoke(cli, ["load", *options, "--json", str(summary)])
    assert result.exit_code == 1
    assert "x 500" in result.output
    classes = json.loads(summary.read_text())["classes"]
    assert all(summary["failed"].keys() == {"500"} for summary in classes.values())


def test_users_do_not_ask_in_bursts() -> None:
    arrivals: list[float] = []

    def answer(number: int, head: bytes) -> bytes:
        if head.startswith(b"POST /v2/models/shirts/infer"):
            arrivals.append(time.perf_counter())
            return ok(b'{"error": "later"}', 429)
        return gateway(number, head)

    with tiny_server(answer) as port:
        report = run_load_test(f"http://127.0.0.1:{port}", 16, 2, console=Console(quiet=True))
    assert report.failures == 0
    assert report.requests == len(arrivals)
    spans = {int((arrival - arrivals[0]) / 0.005) for arrival in arrivals}
    # 16 users ask 20 times a second each: all at once they would fill one in ten spans of 5 ms.
    assert len(spans) > 0.4 * max(spans)
