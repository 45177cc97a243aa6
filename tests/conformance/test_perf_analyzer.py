"""perf_analyzer, the load generator of Triton: an unmodified binary against the service."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cases import MODEL, VARIANTS
from tests.service import RunningService

pytestmark = pytest.mark.cluster

FETCHED = Path(__file__).parents[2] / ".clients" / "perf_analyzer"
BINARY = FETCHED / "wheels" / "bin" / "perf_analyzer"

REQUESTS = 50
# Three windows of this many requests, without a check that their results agree.
BOUNDS = f"--measurement-mode count_windows --measurement-request-count {REQUESTS} -s 999 -r 3"

RUNS = {
    "HTTP": "-i http",
    "HTTP, a variant": "-i http -x dense",
    # Zeros, because its random data are random bits, and some are NaN, which JSON cannot represent.
    "HTTP, JSON tensors": (
        "-i http -x int8 --input-data zero --input-tensor-format json --output-tensor-format json"
    ),
    "HTTP, batches, concurrent, a deadline": (
        "-i http -b 8 --concurrency-range 4 -a -H x-slo-latency-ms:60000"
    ),
    "gRPC": "-i grpc",
    "gRPC, a variant": "-i grpc -x sparse-2:4",
    "gRPC, a stream": "-i grpc -x int8 --streaming",
    "gRPC, batches, concurrent, a deadline": (
        "-i grpc -b 8 --concurrency-range 4 -a --request-parameter slo_latency_ms:60000:int"
        " --grpc-compression-algorithm gzip"
    ),
}


@pytest.mark.parametrize("run", [pytest.param(run, id=name) for name, run in RUNS.items()])
def test_a_run_succeeds_and_every_request_is_answered(
    service: RunningService, run: str, tmp_path: Path
) -> None:
    if not (FETCHED / ".fetched").exists():
        pytest.skip("perf_analyzer is not fetched: make clients")
    report = tmp_path / "report.csv"
    port = service.grpc_port if "-i grpc" in run else service.port
    options = f"-m {MODEL} -u 127.0.0.1:{port} {run} {BOUNDS} -f {report}".split()
    before = statistics(service)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(BINARY.parent)}
    done = subprocess.run(
        [BINARY, *options], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with report.open() as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    after = statistics(service)
    pinned = [variant for variant in VARIANTS if variant in run.split()] or VARIANTS
    answered = {name: after[name]["success"] - before[name]["success"] for name in VARIANTS}
    assert sum(answered[name] for name in pinned) == sum(answered.values()) >= REQUESTS
    assert [after[name]["fail"] for name in VARIANTS] == [before[n]["fail"] for n in VARIANTS]


def statistics(service: RunningService) -> dict[str, dict[str, int]]:
    """Return the numbers of answered and failed requests of each variant."""
    with service.client() as client:
        document: dict[str, Any] = client.get(f"/v2/models/{MODEL}/stats").json()
    return {
        entry["version"]: {
            name: entry["inference_stats"][name]["count"] for name in ("success", "fail")
        }
        for entry in document["model_stats"]
    }
