"""A host in its own process that is killed or stops answering during a batch."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serving.dataplane.executor import HostLost
from serving.link.connection import HostConnection
from serving.link.pool import HostPool
from tests.serving.link.hosts import run_batch
from tests.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys, threading
from serving.link.host import HostSocket

def run(inputs):
    if "hold" in inputs:
        print("held", flush=True)
        threading.Event().wait()
    return inputs

print(HostSocket(run).address, flush=True)
sys.stdin.read()
"""

BATCH = {"x": np.arange(3)}
HELD = {"hold": np.arange(3)}

NEVER_MS = int(2e3 * GIVE_UP_S)
"""A time limit, in milliseconds, that no test reaches."""


@dataclass(frozen=True)
class HostProcess:
    process: subprocess.Popen[str]
    address: str

    def read_line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture
def host() -> Iterator[HostProcess]:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        yield HostProcess(process, process.stdout.readline().strip())
        process.kill()


@pytest.mark.parametrize(
    ("number", "silence_ms"),
    [
        pytest.param(signal.SIGKILL, NEVER_MS, id="killed: lost at once"),
        pytest.param(signal.SIGSTOP, 5_000, id="stopped: lost after missed heartbeats"),
    ],
)
async def test_the_batches_of_a_lost_host_fail_and_on_lost_is_called_once(
    host: HostProcess, number: signal.Signals, silence_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.link.liveness.SILENCE_MS", silence_ms)
    monkeypatch.setattr("serving.link.calls.BATCH_TIMEOUT_S", NEVER_MS / 1e3)
    lost: list[str] = []
    replica_counts: list[int] = []
    pool = HostPool(lambda variant, count: replica_counts.append(count))

    def on_lost() -> None:
        lost.append("lost")
        pool.remove("dense", connection)

    connection = HostConnection(host.address, on_lost)
    pool.add("dense", connection)
    np.testing.assert_array_equal((await run_batch(pool, "dense", BATCH)).outputs["x"], BATCH["x"])

    runs = [asyncio.create_task(run_batch(pool, "dense", HELD)) for _ in range(3)]
    assert await asyncio.to_thread(host.read_line) == "held"
    host.process.send_signal(number)
    done, _ = await asyncio.wait(runs, timeout=GIVE_UP_S)
    assert len(done) == 3, "the loss was not detected"
    assert [type(run.exception()) for run in runs] == [HostLost] * 3

    assert (connection.is_lost, connection.in_flight) == (True, 0)
    assert (lost, replica_counts) == (["lost"], [1, 0])
    with pytest.raises(HostLost):
        await connection.run(BATCH)
    connection.close()
    await asyncio.sleep(0)
    assert lost == ["lost"]
