"""Fuzzing of the service with schemathesis, according to its OpenAPI document."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import READ_TOKEN, RunningService

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = Path(sys.executable).with_name("st")

EXAMPLES = 50
"""Random examples per operation, beside about 1,000 systematic cases. `make fuzz` runs more."""

MIN_ANSWERED = 100
"""Minimum number of answered inference requests: fewer mean that few were valid."""


def answered(service: RunningService) -> int:
    """Return the number of inference requests that the service has answered."""
    with service.client() as client:
        stats = client.get("/v2/models/stats").json()["model_stats"]
    return sum(entry["inference_stats"]["success"]["count"] for entry in stats)


def test_the_service_behaves_as_its_openapi_document_states(service: RunningService) -> None:
    before = answered(service)
    fuzzed = subprocess.run(
        [
            COMMAND,
            f"--config-file={CONFIG}",
            "run",
            f"{service.url}/openapi.json",
            f"--max-examples={EXAMPLES}",
            f"--header=Authorization: Bearer {READ_TOKEN}",
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert fuzzed.returncode == 0, fuzzed.stdout + fuzzed.stderr
    assert answered(service) - before > MIN_ANSWERED
