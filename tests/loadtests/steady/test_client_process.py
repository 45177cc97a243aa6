from __future__ import annotations

import time

import pytest

from loadtests.peers.process import free_port
from loadtests.steady.client_process import start_load_client
from tests.loadtests.server import ok, tiny_server
from tests.loadtests.steady.loads import load


def test_the_process_applies_one_load_after_the_other_and_survives_errors() -> None:
    with start_load_client() as client, tiny_server(lambda number, head: ok()) as port:
        assert len(client.run(load(port, clients=2)).due_s) >= 2
        with pytest.raises(OSError, match="refused"):
            client.run(load(free_port(), clients=1))
        before_s = time.monotonic()
        started_s = client.start(load(port, clients=1))
        record = client.result()
        assert before_s < started_s == record.started_s <= record.due_s[0] < time.monotonic()
