"""`paretoserve up` in a terminal: start it, run the command that it prints, press Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc as triton

from tests.cluster.live_service import PARETOSERVE, start_up
from tests.waiting import wait_until
from variants.catalog.device import gpu_names

pytestmark = pytest.mark.cluster


@pytest.fixture
def up(own_catalog: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The running command, in its own session as in a terminal, and the file with its output."""
    output = tmp_path / "output"
    free = ("--port", "0", "--grpc-port", "0")
    process = start_up(["--catalog", str(own_catalog), *free], output)
    yield process, output
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(300)


def test_the_printed_command_works_and_ctrl_c_ends_every_process(
    up: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, output = up
    printed = output.read_text()
    assert process.poll() is None, printed
    assert "activation-pruned" in printed
    curl = next(line for line in printed.splitlines() if "curl" in line)
    answer: dict[str, Any] = {}

    def is_answered() -> bool:
        run = subprocess.run(shlex.split(curl), check=True, capture_output=True)
        answer.update(json.loads(run.stdout))
        return "model_name" in answer

    wait_until(is_answered)  # a busy machine may refuse the deadline
    assert answer["model_name"] == "small"
    assert answer["parameters"]["deadline_met"] in (True, False)
    grpc = re.search(r"gRPC on (127\.0\.0\.1:\d+)", printed)
    assert grpc
    with triton.InferenceServerClient(grpc[1]) as client:
        assert client.is_server_ready()

    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 4, "Ray and the replicas should be running"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(300) == 0, output.read_text()
    psutil.wait_procs(children, timeout=60)
    assert [child for child in children if child.is_running()] == []
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize(
    ("option", "other"), [("--port", "--grpc-port"), ("--grpc-port", "--port")]
)
def test_a_port_in_use_is_an_error_of_one_line(own_catalog: Path, option: str, other: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            [PARETOSERVE, "up", "--catalog", own_catalog, option, port, other, "0"],
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert run.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in run.stderr
    assert f"another port with {option}" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error_of_one_line(own_catalog: Path) -> None:
    run = subprocess.run(
        [PARETOSERVE, "up", "--catalog", own_catalog],
        env=os.environ | {"PARETOSERVE_HOSTS__DEVICE": "cuda"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 2
    assert "the device `cuda` needs an NVIDIA GPU, and this machine has none" in run.stderr
    assert "Traceback" not in run.stderr
