"""Finding a service and its model, and the messages if that fails."""

from __future__ import annotations

import pytest

from loadtests.client.service import connect, probe
from loadtests.closed_loop.locust_run import run_load_test
from loadtests.peers.process import free_port
from tests.loadtests.gateway_stub import METADATA, respond
from tests.loadtests.server import ok, tiny_server


def test_connect_returns_the_metadata_of_the_model() -> None:
    with tiny_server(respond) as port:
        service = connect(f"http://127.0.0.1:{port}")
    assert service.metadata == METADATA
    assert service.path == "/v2/models/shirts/infer"


def test_a_probe_measures_the_accuracy_and_the_latency_of_every_variant() -> None:
    with tiny_server(respond) as port:
        probes = probe(connect(f"http://127.0.0.1:{port}"), rounds=3)
    assert {name: (p.accuracy, p.latency_ms) for name, p in probes.items()} == {
        "dense": (0.9, 4.0),
        "int8": (0.85, 1.0),
    }


def test_messages_state_what_is_wrong_and_a_remedy() -> None:
    port = free_port()
    with pytest.raises(
        ValueError, match=rf"no service answers at http://127.0.0.1:{port}: .*--url"
    ):
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
    with tiny_server(respond) as port, pytest.raises(ValueError, match="no model 'other'"):
        connect(f"http://127.0.0.1:{port}", "other")


@pytest.mark.parametrize("url", ["http://", "127.0.0.1:1", "file:///etc/hostname", "nonsense"])
def test_an_invalid_url_is_rejected_with_the_option(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        run_load_test(url, 1, 1)
